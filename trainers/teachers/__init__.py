"""Models that score the student's tokens."""
