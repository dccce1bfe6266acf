"""Trainable activations: each has a positive `threshold`, `set_threshold`, and `levels`."""
