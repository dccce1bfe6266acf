"""A multilayer perceptron: the smallest network that shows every idea."""

import math
from collections.abc import Callable, Sequence

from torch import nn

from snnconv.runtime.weights import filled


def mlp(
    num_classes: int,
    input_shape: Sequence[int],
    activation: Callable[[], nn.Module],
    hidden: int | Sequence[int] = (256, 256),
    weights: str | None = None,
) -> nn.Module:
    """Images [N, C, H, W] → logits [N, K] through batch-normalized hidden layers of the given widths."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(input_shape)
    for units in [hidden] if isinstance(hidden, int) else hidden:
        layers += [nn.Linear(width, units), nn.BatchNorm1d(units), activation()]
        width = units
    return filled(nn.Sequential(*layers, nn.Linear(width, num_classes)), weights)
