"""Hugging Face models on disk and in memory; torch is imported inside functions."""
