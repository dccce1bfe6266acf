"""ANN-SNN conversion: checks, thresholds, and one file per published method (`methods/`)."""
