"""Rewriting of convolutions for exchange formats: one group, and square kernels."""

from typing import Any

import torch
from torch import nn


def dense_square(path: str, layer: Any) -> None:
    """Pad the kernel of `layer` with zeros so that it has one group and is square; its output does not change.

    The package nir infers wrong shapes for grouped convolutions and rectangular kernels and raises an error.  ValueError for
    padding other than zeros, and for kernels whose sides differ by an odd number, because both sides would need different padding.
    """
    if layer.padding_mode != "zeros":
        raise ValueError(
            f"{path} ({type(layer).__name__}): padding_mode={layer.padding_mode!r}; only zero padding can be exported"
        )
    if layer.groups > 1:
        inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        weight = torch.zeros(layer.out_channels, layer.in_channels, *layer.kernel_size)
        for group in range(layer.groups):
            rows = slice(group * outputs, (group + 1) * outputs)
            weight[rows, group * inputs : (group + 1) * inputs] = layer.weight.detach()[rows]
        layer.weight, layer.groups = nn.Parameter(weight), 1
    if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] != layer.kernel_size[1]:
        _square(path, layer)


def _square(path: str, layer: nn.Conv2d) -> None:
    side = max(layer.kernel_size)
    missing = [side - size for size in layer.kernel_size]
    if any(n % 2 for n in missing):
        raise ValueError(f"{path} (Conv2d): kernel_size={layer.kernel_size}; the sides must differ by an even number, because nir "
                         "supports only square kernels")  # fmt: skip
    top, left = (n // 2 for n in missing)
    layer.weight = nn.Parameter(nn.functional.pad(layer.weight.detach(), (left, left, top, top)))
    if not isinstance(layer.padding, str):
        layer.padding = (layer.padding[0] + top * layer.dilation[0], layer.padding[1] + left * layer.dilation[1])
    elif layer.padding == "valid":
        layer.padding = (top * layer.dilation[0], left * layer.dilation[1])
    layer.kernel_size = (side, side)
