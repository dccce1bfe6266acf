"""Quantized ANNs as baselines: the trained network with integer weights and activations (torchao; `snnconv[quantize]`)."""
