"""Figures of a step, and the alarms that read them."""
