"""Operations on counts of spikes and values: the effect of a layer or function on the number of each element."""

import copy
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snnconv.nn.graph.aten_shapes import for_every_image
from snnconv.nn.graph.kinds import DIVISIONS, SCALING, SUMS
from snnconv.nn.graph.pooling import AveragePool

SPIKES, CONSTANT, VARYING = range(3)  # kinds of values of an element: spikes, constant over time, changing
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "padding_mode")


def carrying(what: int, shape: Sequence[int]) -> Tensor:
    """[3, *shape] of which every element carries one value of the kind `what`."""
    x = torch.zeros(3, *shape, dtype=torch.float64)
    x[what] = 1
    return x


def uses(layer: Any, x: Tensor) -> Tensor:
    """Number of weights of `layer` that are multiplied by the values that each row of `x` [R, C, …] counts, by output: [R, D, …].

    One channel represents all channels: a convolution of ones over the sum of the channels.  (Each input is used only in its
    group; the sum over output channels of the number divided by the groups is correct.)
    """
    if isinstance(layer, nn.Linear):
        return x.sum(-1, keepdim=True).expand(*x.shape[:-1], layer.out_features)
    kind: Any = next(kind for kind in CONVOLUTIONS if isinstance(layer, kind))
    geometry = {name: getattr(layer, name) for name in GEOMETRY}
    if kind in TRANSPOSED:
        geometry["output_padding"] = layer.output_padding
    one = kind(1, 1, bias=False, dtype=torch.float64, **geometry)
    nn.init.ones_(one.weight)
    used = one(x.sum(1, keepdim=True)) / layer.groups
    return used.expand(-1, layer.out_channels, *used.shape[2:])


def nonzero_uses(layer: Any, x: Tensor) -> Tensor:
    """`uses` for weights that are not 0."""
    mask: Any = copy.deepcopy(layer).cpu().double()
    mask.weight = nn.Parameter((layer.weight != 0).cpu().double(), requires_grad=False)
    mask.bias = None
    return mask(x)


def together(*parts: Any, **settings: Any) -> Tensor:
    """A sum carries what its parts carry; so does a product with a constant, which itself carries nothing."""
    return reduce(torch.add, [part for part in (*parts, *settings.values()) if isinstance(part, Tensor)])


def _unchanged(x: Tensor, *settings: Any, **more: Any) -> Tensor:
    return x


def _pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Tensor:
    return F.pad(x, pad, mode)


def _sum(x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    return x.sum(dim, keepdim)


def interpolated(x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
    """The counts `x` at every cell to which they contribute; interpolation is a matrix for each spatial dimension."""
    for axis in range(2, x.dim()):
        size = x.shape[axis]
        lines = torch.eye(size, dtype=x.dtype).view(size, 1, *[size if d == axis else 1 for d in range(2, x.dim())])
        lines = run(lines.expand(-1, -1, *[size if d == axis else n for d, n in enumerate(x.shape) if d >= 2]))
        matrix = (lines.movedim(axis, 2).flatten(3)[:, 0, :, 0] != 0).to(x)  # [size, new size]
        x = (x.movedim(axis, -1) @ matrix).movedim(-1, axis)
    return x


def sum_pool(x: Tensor, pool: AveragePool) -> Tensor:
    """Sums over the windows of average pooling."""
    if pool.adaptive:
        return _adaptive_sum_pool(x, pool.output_size)
    sizes = pool.window(x.shape[2:])
    if x.dim() == 3:  # one dimension: there a divisor cannot be given
        kernel, stride, padding = ((fill, *size) for fill, size in zip((1, 1, 0), sizes, strict=True))
        return F.avg_pool2d(x.unsqueeze(2), kernel, stride, padding, pool.ceil_mode, divisor_override=1).squeeze(2)
    function: Any = F.avg_pool3d if x.dim() == 5 else F.avg_pool2d
    return function(x, *sizes, pool.ceil_mode, divisor_override=1)


def max_pooled(x: Tensor, pool: Any) -> Tensor:
    """Sums over the windows of max pooling."""
    if hasattr(pool, "output_size"):
        return _adaptive_sum_pool(x, pool.output_size)
    kernel, stride, padding = (
        (size,) * (x.dim() - 2) if isinstance(size, int) else tuple(size)
        for size in (pool.kernel_size, pool.stride, pool.padding)
    )
    if set(pool.dilation if isinstance(pool.dilation, tuple) else (pool.dilation,)) != {1}:
        raise ValueError(f"{pool}: operations of pooling with dilation cannot be counted")
    if x.dim() == 3:
        sizes = (1, *kernel), (1, *stride), (0, *padding)
        return F.avg_pool2d(x.unsqueeze(2), *sizes, pool.ceil_mode, divisor_override=1).squeeze(2)
    function: Any = F.avg_pool3d if x.dim() == 5 else F.avg_pool2d
    return function(x, kernel, stride, padding, pool.ceil_mode, divisor_override=1)


def _adaptive_sum_pool(x: Tensor, output_size: Any) -> Tensor:
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[x.dim() - 3]
    pooled = pool(x, output_size)
    for axis in range(2, x.dim()):
        size, cells = x.shape[axis], pooled.shape[axis]
        widths = [-(-(i + 1) * size // cells) - i * size // cells for i in range(cells)]
        pooled = pooled * torch.tensor(widths, dtype=x.dtype).view(-1, *[1] * (x.dim() - 1 - axis))
    return pooled


def copies_elements(mode: str) -> bool:
    """Whether interpolation by `mode` copies elements and does not mix them."""
    return mode.startswith("nearest")


RULES: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((*SUMS, *SCALING, *DIVISIONS), together),
    **dict.fromkeys((operator.neg, F.dropout), _unchanged),
    **dict.fromkeys((torch.mean, "mean"), _sum),
    F.pad: _pad,
}
SHAPING = (
    operator.getitem, getattr, torch.cat, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.unsqueeze,
    torch.squeeze, torch.movedim, torch.roll, torch.flip, torch.stack, torch.chunk, torch.split, torch.unbind, torch.narrow,
    torch.select, torch.Tensor.expand, F.pixel_shuffle, for_every_image,
    "flatten", "view", "reshape", "size", "dim", "permute", "transpose", "contiguous",
)  # fmt: skip
