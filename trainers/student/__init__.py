"""The model that learns, on one process or several."""
