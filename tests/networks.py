"""Networks that tests make up."""

from torch import nn


class Net(nn.Module):
    """Layers a, b, …; `forward` is given as a formula of the net and its input."""

    def __init__(self, forward, **layers: nn.Module) -> None:
        super().__init__()
        self.formula = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.formula(self, x)
