"""Training of ANNs, and training of SNNs through time."""
