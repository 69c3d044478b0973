"""Games: which there are, where they come from, how they are kept."""
