"""Networks for hardware: compression, integers, quantized baselines, and files for other programs."""
