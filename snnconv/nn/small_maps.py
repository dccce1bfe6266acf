"""Convolutions on small maps as one matrix product, behind a plain `nn.Conv2d`, on a CPU.

Libraries are tuned for large maps: at 512 channels on 2×2 the convolutions of VGG-16 run at half the rate of a matrix product.
`training/tune.py` measures which layers gain, and `compute_as_product` makes them so: class, parameters and state_dict
stay what they were, and results differ by rounding.  Measured on one core of an AMD EPYC with AVX512-BF16, 512 → 512
channels, 3×3, 128 images, forward and backward, TFLOP/s against `F.conv2d`: 2×2 0.16 to 0.08 in float32 and 0.32 to 0.18 in
bfloat16; 4×4 0.07 to 0.12 and 0.19 to 0.26, which is why the choice is left to a measurement.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

POSITIONS = 64  # of the output, above which no library is slower


@dataclass(frozen=True)
class SmallMap:
    """Replaces `nn.Conv2d._conv_forward` on inputs of one `size` (height, width); all else is convolved as usual."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of `x` [N, C, H, W]."""
        if x.device.type != "cpu" or x.dim() != 4 or x.shape[2:] != self.size or _is_observed():
            return F.conv2d(x, weight, bias, self.stride, self.padding)
        output = product(x, weight, self.stride, self.padding)
        return output if bias is None else output + bias.to(output.dtype)[:, None, None]


def _is_observed() -> bool:
    """Does an exporter or a counter of operations look on?  They are shown a convolution."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return torch.jit.is_tracing() or _get_current_dispatch_mode() is not None


def serves(conv: nn.Module, size: Sequence[int]) -> bool:
    """Can `conv` be a matrix product on maps of `size`: an ordinary convolution with few output positions?"""
    if type(conv) is not nn.Conv2d or isinstance(conv.padding, str):
        return False
    if (conv.dilation, conv.groups, conv.padding_mode) != ((1, 1), 1, "zeros"):
        return False
    height, width = _output_size(size, conv.kernel_size, conv.stride, conv.padding)
    return 0 < height * width <= POSITIONS


def compute_as_product(conv: nn.Conv2d, size: Sequence[int]) -> None:
    """Let `conv` be a matrix product on maps of `size` (`serves`); copies of it are, too."""
    assert not isinstance(conv.padding, str)
    conv._conv_forward = SmallMap(tuple(size), conv.stride, conv.padding)  # type: ignore[method-assign, assignment]


def compute_as_usual(network: nn.Module) -> None:
    """Undo `compute_as_product` for all layers of `network`."""
    for module in network.modules():
        module.__dict__.pop("_conv_forward", None)


@torch.library.custom_op("snnconv::product", mutates_args=())
def product(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The convolution of `x` [N, C, H, W] with `weight` [D, C, K, L] as one matrix product.

    Where the map has no more positions than the kernel, the weights are laid out for every pair of an input and an output
    position (no product with padding is left); else the inputs that each output sees are (im2col).
    """
    images, out = len(x), len(weight)
    height, width = _output_size(x.shape[2:], weight.shape[2:], stride, padding)
    index, wide_weights = _layout(tuple(x.shape[2:]), tuple(weight.shape[2:]), tuple(stride), tuple(padding))
    pixels, taps = _by_position(x), _by_position(weight)
    if wide_weights:
        matrix = _spread(taps, index).view(out * height * width, -1)
        output = (pixels.view(images, -1) @ matrix.t()).view(images, out, height, width)
        return output.contiguous(memory_format=torch.channels_last)
    columns = _spread(pixels, index).view(images * height * width, -1)
    return (columns @ taps.view(out, -1).t()).view(images, height, width, out).permute(0, 3, 1, 2)


@product.register_fake
def _(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    height, width = _output_size(x.shape[2:], weight.shape[2:], stride, padding)
    return x.new_empty(len(x), height, width, len(weight)).permute(0, 3, 1, 2)


@torch.library.custom_op("snnconv::product_backward", mutates_args=())
def product_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The gradients of `x` and of `weight`, each one matrix product."""
    index, wide_weights = _layout(tuple(x.shape[2:]), tuple(weight.shape[2:]), tuple(stride), tuple(padding))
    pixels, taps = _by_position(x), _by_position(weight)
    if wide_weights:
        grads = grad.flatten(1)
        grad_pixels = grads @ _spread(taps, index).view(grads.shape[1], -1)
        grad_taps = _gather(grads.t() @ pixels.view(len(x), -1), index, taps)
    else:
        grads = _by_position(grad).flatten(0, 1)
        grad_pixels = _gather(grads @ taps.view(len(weight), -1), index, pixels)
        grad_taps = grads.t() @ _spread(pixels, index).view(len(grads), -1)
    return _as_maps(grad_pixels, x), _as_maps(grad_taps, weight)


@product_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> tuple[Tensor, Tensor]:
    return _as_maps(_by_position(x).new_empty(x.numel()), x), _as_maps(
        _by_position(weight).new_empty(weight.numel()), weight
    )


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, ctx.stride, ctx.padding = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    return *product_backward(grad, *ctx.saved_tensors, ctx.stride, ctx.padding), None, None


product.register_autograd(_backward, setup_context=_save)
product.register_autocast("cpu", torch.bfloat16)


def _output_size(size: Sequence, kernel: Sequence, stride: Sequence, padding: Sequence) -> tuple[Any, Any]:
    """Height and width; symbols where these are."""
    height, width = ((size[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in (0, 1))
    return height, width


@functools.cache
def _layout(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> tuple[Tensor, bool]:
    """The operand that is laid out, in the order of the matrix, and whether it is the weights.

    For every output position, either the kernel's tap for every input position, or the input position for every tap;
    the number after the last where there is none.
    """
    wide_weights = size[0] * size[1] <= kernel[0] * kernel[1]
    source, others = (kernel, size) if wide_weights else (size, kernel)
    lines = []
    for outputs, step, pad, other in zip(
        _output_size(size, kernel, stride, padding), stride, padding, others, strict=True
    ):
        first = (torch.arange(outputs) * step - pad)[:, None]
        lines.append(torch.arange(other) - first if wide_weights else torch.arange(other) + first)
    rows, columns = lines[0][:, None, :, None], lines[1][None, :, None, :]
    exists = (rows >= 0) & (rows < source[0]) & (columns >= 0) & (columns < source[1])
    return torch.where(exists, rows * source[1] + columns, source[0] * source[1]).flatten(), wide_weights


def _by_position(maps: Tensor) -> Tensor:
    """[N, C, H, W] as [N, H·W, C], dense: no copy where channels are last."""
    return maps.permute(0, 2, 3, 1).contiguous().flatten(1, 2)


def _as_maps(rows: Tensor, like: Tensor) -> Tensor:
    """The opposite: numbers in the order [N, H, W, C] in the shape of `like`."""
    images, channels, height, width = like.shape
    return rows.reshape(images, height, width, channels).permute(0, 3, 1, 2)


def _spread(rows: Tensor, index: Tensor) -> Tensor:
    """`rows` [N, M, C] at `index`; 0 at M."""
    return F.pad(rows, (0, 0, 0, _outside(index, rows))).index_select(1, index)


def _gather(matrix: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """The gradient of `_spread`: what arrived at each of `rows`."""
    count, size, channels = rows.shape
    sums = matrix.new_zeros(count, size + _outside(index, rows), channels)
    return sums.index_add_(1, index, matrix.view(count, -1, channels))[:, :size].contiguous()


def _outside(index: Tensor, rows: Tensor) -> int:
    """1 if `index` names something after the last of `rows`, else 0."""
    return int(index.max() == rows.shape[1])
