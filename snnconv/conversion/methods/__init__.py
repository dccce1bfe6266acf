"""Conversion methods, one per file: `convert(ann, batches, …) -> SpikingModel`.  A method never changes the ANN."""
