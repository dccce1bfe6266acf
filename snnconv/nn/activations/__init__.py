"""Activations to train with: each has a positive `threshold` to read, `set_threshold`, and `levels`."""
