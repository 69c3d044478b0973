"""Algorithms, one file each, and the maths they share; the only place that imports torch freely.

Adding one takes a `Trainer`, a `TrainerSpec` and one entry point: see docs/adding-a-trainer.md.
"""
