"""Training as data: configuration, checks, the loop, and what the loop needs."""
