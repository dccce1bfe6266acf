"""Analysis of a converted network: causes of lost accuracy, operations, energy, robustness."""
