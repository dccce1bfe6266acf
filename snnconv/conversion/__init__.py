"""ANN to SNN: checks, thresholds, and one file per published method (`methods/`)."""
