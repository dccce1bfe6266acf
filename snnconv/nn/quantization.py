"""Weights as small integers times a scale: symmetric, so zero stays zero; one scale per layer or per output channel."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor

TERNARY = 2  # bits
BINARY, POWER_OF_TWO = "binary", "power_of_two"
STORED = {BINARY: 1, POWER_OF_TWO: 4}  # bits of a weight in memory: a sign; a sign, zero, and exponents 0 … 6
LARGEST = {BINARY: 1, POWER_OF_TWO: 64}
Bits = int | str


@dataclass(frozen=True)
class QuantizedWeights:
    """weights ≈ scale · integers: `integers` of the shape of the weights, `scale` [C] (all equal for one scale per layer)."""

    integers: Float[Tensor, "C *rest"]
    scale: Float[Tensor, " C"]

    @property
    def values(self) -> Float[Tensor, "C *rest"]:
        """The weights after quantization."""
        return self.integers * over_outputs(self.scale, self.integers)


def over_outputs(values: Float[Tensor, " C"], like: Float[Tensor, "C *rest"]) -> Tensor:
    """`values`, one per output channel, shaped for broadcasting with the weights."""
    return values.view(-1, *[1] * (like.dim() - 1))


def stored_bits(bits: Bits) -> int:
    """Bits of one weight in memory."""
    return STORED[bits] if isinstance(bits, str) else bits


class LayerBits:
    """The bits of every weight layer: `bits`, or those of the first pattern of `layers` that matches its path.

    Patterns are those of fnmatch ("layer3.*.conv1").  ValueError for an unsupported number of bits.
    """

    def __init__(self, bits: Bits = 8, layers: Mapping[str, Bits] | None = None) -> None:
        self.bits = bits
        self.layers = {str(pattern): value for pattern, value in (layers or {}).items()}  # 3 is a path, too
        for each in (bits, *self.layers.values()):
            largest_integer(each)

    def of(self, path: str) -> Bits:
        """Bits of the layer at `path`."""
        return next((bits for pattern, bits in self.layers.items() if fnmatchcase(path, pattern)), self.bits)

    def require_matches(self, paths: Iterable[str], what: str = "layers") -> None:
        """Raise a ValueError naming the setting `what` if a pattern matches none of `paths`."""
        paths = list(paths)
        unused = [pattern for pattern in self.layers if not any(fnmatchcase(path, pattern) for path in paths)]
        if unused:
            raise ValueError(f"{what}: no layer with weights matches {', '.join(unused)}; there are {', '.join(paths)}")


def largest_integer(bits: Bits) -> int:
    """2^(bits−1) − 1: 127 of 8 bits, 7 of 4, 1 of 2 (ternary); 1 of binary and 64 of power-of-two weights.

    ValueError for fewer than 2 bits or more than 16, and for other words.
    """
    if isinstance(bits, str) and bits in LARGEST:
        return LARGEST[bits]
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 16:
        raise ValueError(f"bits={bits!r}: weights have 2 (ternary) to 16 bits, or are {BINARY} or {POWER_OF_TWO}")
    return 2 ** (bits - 1) - 1


@torch.no_grad()
def quantize(weights: Float[Tensor, "C *rest"], bits: Bits = 8, per_channel: bool = True) -> QuantizedWeights:
    """`weights` as integers from −q to q, q = 2^(bits−1) − 1, times a scale; ties to even.

    From 3 bits on the scale is max|w|/q.  Ternary weights follow Li & Liu, 2016 (Ternary Weight Networks): those of at least
    0.7·mean|w| are ±1, the scale is their mean absolute value.  Binary weights follow Rastegari et al., 2016 (XNOR-Net): ±1, the
    scale is the mean absolute value.  Power-of-two weights are 0 or ±2^k, k = 0 … 6, after Zhou et al., 2017 (Incremental Network
    Quantization); the scale is max|w|/64.  If all weights are 0, the scale is 1.
    """
    q, size = largest_integer(bits), _sizes(weights, per_channel)
    if bits == TERNARY:
        nonzero = _nonzero(size)
        scale = (size * nonzero).sum(1) / nonzero.sum(1).clamp_min(1)
    elif bits == BINARY:
        scale = size.mean(1)
    else:
        scale = size.amax(1) / q
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)).expand(len(weights)).contiguous()
    return quantize_to(scale, weights, bits, per_channel)


@torch.no_grad()
def quantize_to(
    scale: Float[Tensor, " C"], weights: Float[Tensor, "C *rest"], bits: Bits, per_channel: bool = True
) -> QuantizedWeights:
    """`quantize` with a given scale [C]; it does not change which ternary weights are ±1, nor the signs of binary ones."""
    q = largest_integer(bits)
    if bits == TERNARY:
        nonzero = _nonzero(_sizes(weights, per_channel)).reshape(weights.shape)
        return QuantizedWeights(weights.sign() * nonzero, scale)
    if bits == BINARY:
        return QuantizedWeights(torch.where(weights < 0, -1.0, 1.0).to(weights), scale)
    relative = weights / over_outputs(scale, weights)
    if bits == POWER_OF_TWO:
        powers = 2 ** relative.abs().clamp(1, q).log2().round()
        return QuantizedWeights(relative.sign() * powers * (relative.abs() >= 0.5), scale)
    return QuantizedWeights(relative.round().clamp(-q, q), scale)


def _sizes(weights: Tensor, per_channel: bool) -> Tensor:
    """|w|, one row per scale."""
    return weights.abs().flatten(1) if per_channel else weights.abs().flatten().unsqueeze(0)


def _nonzero(size: Tensor) -> Tensor:
    """True for the weights that ternary quantization does not set to zero."""
    return size >= 0.7 * size.mean(1, keepdim=True)
