"""Synthetic households and problems."""
