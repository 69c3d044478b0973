"""Players: the expert, the explorer that reads text alone, and their planning."""
