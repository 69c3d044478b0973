"""Losses on hidden states and head, a chunk of the vocabulary's products at a time."""
