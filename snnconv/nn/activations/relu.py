"""The plain rectifier, which has no threshold: networks to start from, or to compare with."""

from torch import nn


class ReLU(nn.ReLU):
    """max(x, 0).  No method that needs thresholds converts it; `model.weights` takes a network trained with it further."""

    def __init__(self) -> None:
        super().__init__()
