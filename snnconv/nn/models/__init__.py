"""Plain networks with the activation injected: `model(num_classes, input_shape, activation, …) -> nn.Module`."""
