"""Losses of the algorithms once more, in plain float64: what `agentbench check-objective` holds the trainers against.

Written from the papers' formulas, turn by turn through full logits, without anything from the rooms they check.
"""
