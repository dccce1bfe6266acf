"""What a deployer would otherwise use: the trained network itself in small whole numbers (torchao; `snnconv[quantize]`)."""
