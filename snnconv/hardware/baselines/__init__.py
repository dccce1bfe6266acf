"""Quantized ANNs as baselines: the trained network itself in small integers (torchao; `snnconv[quantize]`)."""
