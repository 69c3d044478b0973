"""Benchmarks for language-model agents, and on-policy distillation and RL to train them."""

__version__ = "0.1.0"
