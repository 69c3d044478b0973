"""Lists of trajectories become tables of tensors, once."""
