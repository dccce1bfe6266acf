"""Why the accuracy of an SNN is lower than that of its ANN, and what both cost: errors, operations, energy, robustness."""
