"""Evaluation as data: frozen panels, and one configuration that plays them."""
