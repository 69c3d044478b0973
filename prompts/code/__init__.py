"""Prompts of programming tasks."""
