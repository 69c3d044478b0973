"""The formulas, on plain tensors: each held against a float64 reference."""
