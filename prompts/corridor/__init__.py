"""Prompts of the corridor toy."""
