"""snnconv: ANN-SNN conversion with clipped, quantized activations."""

__version__ = "0.1.0"
