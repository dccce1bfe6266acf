"""Weights as small whole numbers times a scale: symmetric, so zero stays zero; one scale a layer or an output channel."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

TERNARY = 2  # bits


@dataclass(frozen=True)
class QuantizedWeights:
    """weights ≈ scale · integers: `integers` as the weights, `scale` [C] (all the same for one scale a layer)."""

    integers: Float[Tensor, "C *rest"]
    scale: Float[Tensor, " C"]

    @property
    def values(self) -> Float[Tensor, "C *rest"]:
        """The weights that are left."""
        return self.integers * over_outputs(self.scale, self.integers)


def over_outputs(values: Float[Tensor, " C"], like: Float[Tensor, "C *rest"]) -> Tensor:
    """`values`, one an output channel, shaped to meet weights."""
    return values.view(-1, *[1] * (like.dim() - 1))


def largest_integer(bits: int) -> int:
    """2^(bits−1) − 1: 127 of 8 bits, 7 of 4, 1 of 2 (ternary).  ValueError for fewer than 2 bits or more than 16."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 16:
        raise ValueError(f"bits={bits!r}: weights have 2 (ternary) to 16 bits")
    return 2 ** (bits - 1) - 1


@torch.no_grad()
def quantize(weights: Float[Tensor, "C *rest"], bits: int = 8, per_channel: bool = True) -> QuantizedWeights:
    """`weights` as integers from −q to q, q = 2^(bits−1) − 1, times a scale; ties to even.

    From 3 bits on the scale is max|w|/q.  Ternary weights follow Li & Liu, 2016 (Ternary Weight Networks): those of at least
    0.7·mean|w| are ±1, the scale is their mean size.  What is all zero keeps the scale 1.
    """
    q, size = largest_integer(bits), _sizes(weights, per_channel)
    if bits == TERNARY:
        kept = _kept(size)
        scale = (size * kept).sum(1) / kept.sum(1).clamp_min(1)
    else:
        scale = size.amax(1) / q
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)).expand(len(weights)).contiguous()
    return quantize_to(scale, weights, bits, per_channel)


@torch.no_grad()
def quantize_to(
    scale: Float[Tensor, " C"], weights: Float[Tensor, "C *rest"], bits: int, per_channel: bool = True
) -> QuantizedWeights:
    """The same for a given scale [C]; which weights are ±1 in ternary ones does not depend on it."""
    q = largest_integer(bits)
    if bits == TERNARY:
        kept = _kept(_sizes(weights, per_channel)).reshape(weights.shape)
        return QuantizedWeights(weights.sign() * kept, scale)
    return QuantizedWeights((weights / over_outputs(scale, weights)).round().clamp(-q, q), scale)


def _sizes(weights: Tensor, per_channel: bool) -> Tensor:
    """|w|, a row for each scale."""
    return weights.abs().flatten(1) if per_channel else weights.abs().flatten().unsqueeze(0)


def _kept(size: Tensor) -> Tensor:
    """The weights that ternary ones do not set to zero."""
    return size >= 0.7 * size.mean(1, keepdim=True)
