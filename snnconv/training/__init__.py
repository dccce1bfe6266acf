"""Training of ANNs, and of SNNs through time."""
