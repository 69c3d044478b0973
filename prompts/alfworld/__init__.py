"""Prompts of ALFWorld."""
