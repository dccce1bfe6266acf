"""A network of one-dimensional convolutions, for signals [C, L]."""

import math
from collections.abc import Callable, Sequence

from torch import nn

from snnconv.runtime.weights import filled


def conv1d(
    num_classes: int,
    input_shape: Sequence[int],
    activation: Callable[[], nn.Module],
    widths: Sequence[int] = (16, 32, 64),
    kernel: int = 7,
    weights: str | None = None,
) -> nn.Module:
    """Signals [N, C, L] → logits [N, K]: a convolution and an average pooling by two for each width, and a global mean.

    Inputs with more dimensions are flattened to [N, C, L], for example images row by row.
    """
    if len(input_shape) < 2:
        raise ValueError(
            f"model=conv1d needs signals [C, L], but the data are {list(input_shape)}; use model=mlp for other shapes"
        )
    if kernel % 2 == 0:
        raise ValueError(f"model.kernel={kernel}: must be odd, so that signals keep their length")
    layers: list[nn.Module] = [nn.Flatten(2)] if len(input_shape) > 2 else []
    channels, length = input_shape[0], math.prod(input_shape[1:])
    for width in widths:
        layers += [
            nn.Conv1d(channels, width, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(width),
            activation(),
        ]
        if length >= 2:
            layers.append(nn.AvgPool1d(2))
        channels, length = width, length // 2
    head = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return filled(nn.Sequential(*layers, *head), weights)
