"""Prompts for WebShop."""
