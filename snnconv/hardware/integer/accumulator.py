"""Integer sums before a neuron: scales of weights, unit of the accumulator, multipliers, biases, and bounds of the sums.

Quantization is symmetric: every zero point is 0.  The layers and shortcuts of a group add up in one accumulator, whose unit S is a
real number for each output channel:

    current / S  ≈  Σ over layers  multiplier · (integers ∗ input) + bias   +   Σ over shortcuts  factor · spikes

Where average pooling of `window` currents becomes a sum, the layer before it counts in units of window · S, and the sum in units
of S.

A worked example: weights 0.5 and −0.25 with bias 0.1 receive spikes of θ = 2, and feed a neuron of θ = 1.

1. An input of 1 means 2, so the weights of the integers are 1 and −0.5.
2. With 8 bits their scale is 1/127, and the integers are 127 and −64 (−63.5, ties to even).
3. θ has at least 256 units: 256 · (1/127) / 1 = 2.02, so the unit is the scale divided by the next power of two, S = 1/508.
4. The multiplier is (1/127) / S = 4, the bias round(0.1 / S) = 51, and θ is 508.
5. A step in which both inputs spike adds 4 · (127 − 64) + 51 = 303 units, which is 0.596; exact is 0.6.

>>> layer = nn.Linear(2, 1)
>>> with torch.no_grad():
...     _ = layer.weight.copy_(torch.tensor([[0.5, -0.25]])), layer.bias.copy_(torch.tensor([0.1]))
>>> sums = accumulate([Term(layer, Value(scale=2.0))], [], Theta(torch.ones(1), torch.ones(1)))
>>> (made,) = sums.layers
>>> made.integers.tolist(), made.multiplier.tolist(), made.bias.tolist(), round(1 / sums.unit.item())
([[127.0, -64.0]], [4.0], [51.0], 508)
>>> sums.bound.tolist()  # the largest sum that spikes can cause: 4 · 127 + 51
[559.0]
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.hardware.integer.groups import Value
from snnconv.hardware.integer.operations import RESOLUTION, Requantize
from snnconv.nn.quantization import Bits, over_outputs, quantize, quantize_to

FINEST = 2**15  # units in a threshold, at most: weights smaller than one unit do not matter for spikes
PASSED = 2**16  # units in the largest sum that goes on to a weight layer, at least, where biases are among them
TYPICAL = 8  # ratio of the largest possible input to a typical one: a guess, for choosing among roundings
HEADROOM = 4  # thresholds that a saturating membrane holds, where its unit is chosen to fit


@dataclass
class IntegerLayer:
    """An integer weight layer, which adds multiplier · (integers ∗ input) + bias to the accumulator."""

    bits: Bits
    integers: Tensor
    multiplier: Float[Tensor, " C"]
    bias: Float[Tensor, " C"]


@dataclass
class Term:
    """A float weight layer, its input, and the operation that rounds this input (None: it is already an integer).

    `window` is the number of its sums that average pooling adds up in the accumulator: they count in units of window · S.
    """

    layer: Any
    value: Value
    requantize: Requantize | None = None
    bits: Bits = 8
    window: float = 1


@dataclass
class Theta:
    """The smallest and the largest θ of the neurons that read an accumulator, [C]."""

    least: Tensor
    most: Tensor


@dataclass
class Accumulator:
    """The integers of a group for one choice of input rounding and unit."""

    unit: Tensor  # S, [C]
    terms: list[Term]
    layers: list[IntegerLayer]  # one for each term
    factors: list[Tensor]  # of spikes on shortcuts, [C]
    bound: Tensor  # of the sums of one step, [C]
    noise: float  # mean square of the current that rounding changes in a step, in thresholds: an estimate
    loss: (
        float  # squared error of the weights that the unit causes, relative to their square: the largest of the layers
    )


def accumulate(
    terms: list[Term], shortcuts: list[Value], theta: Theta | None, *, per_channel: bool = True,
    membrane_bits: int | None = None, finest: int = FINEST, passed: bool = False,
) -> Accumulator:  # fmt: skip
    """The accumulator of weight layers (`terms`) and `shortcuts`, read by neurons of threshold `theta`.

    Without `theta` it is the input of the logits or, if `passed`, of other weight layers.  θ is at most `finest` units, and fits
    into `membrane_bits`.
    """
    weights = [term.layer.weight * by_input(term.layer, term.value.scale) / term.window for term in terms]
    scales = [quantize(weight, term.bits, per_channel).scale for weight, term in zip(weights, terms, strict=True)]
    wanted = torch.full_like(scales[0], RESOLUTION if len(terms) + len(shortcuts) > 1 else 1)
    scale = torch.stack(scales).amin(0)
    if theta is not None:
        unit = _unit_of_neurons(scale, wanted, theta, finest, membrane_bits)
    elif passed and any(term.layer.bias is not None for term in terms):
        wanted = torch.maximum(wanted, PASSED * scale / _largest(terms, weights).clamp_min(1e-30))
        unit = scale / 2 ** wanted.log2().ceil()
    else:
        unit = scale / 2 ** wanted.log2().ceil()
    layers, noise, losses = [], torch.zeros_like(unit), []
    up, down = torch.zeros_like(unit), torch.zeros_like(unit)  # bounds of the positive and of the negative sums
    for weight, scale, term in zip(weights, scales, terms, strict=True):
        multiplier = (scale / unit * (1 - 1e-6)).ceil().clamp_min(1)  # up, so that no weight is cut off
        rounded = quantize_to(multiplier * unit, weight, term.bits, per_channel)
        bias = torch.zeros_like(unit) if term.layer.bias is None else (term.layer.bias / (unit * term.window)).round()
        layers.append(IntegerLayer(term.bits, rounded.integers, multiplier, bias))
        positive, negative = _bounds(layers[-1], term)
        up += (bias.abs() + positive) * term.window
        down += (bias.abs() + negative) * term.window
        typical = by_input(term.layer, term.value.bound) / TYPICAL
        error = ((rounded.values - weight) * typical) ** 2 + (0 if term.requantize is None else weight**2 / 12)
        noise += error.flatten(1).sum(1)
        losses.append(_loss(weight, rounded.values, quantize(weight, term.bits, per_channel).values))
    factors = [(value.scale / unit).round().float() for value in shortcuts]
    for factor, value in zip(factors, shortcuts, strict=True):
        up += factor * value.bound
        down += factor * (value.bound if value.signed else 0)
    strength = (noise / (1 if theta is None else theta.least) ** 2).mean().item()
    return Accumulator(unit, terms, layers, factors, torch.maximum(up, down), strength, max(losses))


def _unit_of_neurons(scale: Tensor, wanted: Tensor, theta: Theta, finest: int, membrane_bits: int | None) -> Tensor:
    """S: the scale of the weights divided by a power of two, within the limits that θ sets."""
    wanted = torch.maximum(wanted, RESOLUTION * scale / theta.least)
    unit = torch.maximum(scale / 2 ** wanted.log2().ceil(), theta.least / finest)
    if membrane_bits is None:
        return unit
    largest = 2 ** (membrane_bits - 1) - 1
    fits = (theta.most / unit).round() <= largest
    return unit.where(fits, torch.maximum(unit, theta.most * HEADROOM / largest))


def _largest(terms: list[Term], weights: list[Tensor]) -> Tensor:
    """The largest current that inputs and biases allow, [C]."""
    parts = [(weight * by_input(term.layer, term.value.bound)).abs().flatten(1).sum(1) * term.window
             for weight, term in zip(weights, terms, strict=True)]  # fmt: skip
    return sum(parts) + sum(term.layer.bias.abs() for term in terms if term.layer.bias is not None)  # type: ignore[return-value]


def _bounds(layer: IntegerLayer, term: Term) -> tuple[Tensor, Tensor]:
    """The largest sum of a layer in one step, and the negative of the smallest sum, without bias, [C]."""
    weights = layer.integers * over_outputs(layer.multiplier, layer.integers)
    product = weights * by_input(term.layer, term.value.bound)
    product = product.flatten(1)
    above, below = product.clamp_min(0).sum(1), -product.clamp_max(0).sum(1)
    return (above + below, below + above) if term.value.signed else (above, below)


def _loss(weight: Tensor, rounded: Tensor, quantized: Tensor) -> float:
    """Squared error of `rounded` weights, relative to their square; 0 if the error is only caused by the number of bits."""
    error, by_bits = ((values - weight).square().sum().item() for values in (rounded, quantized))
    return error / weight.square().sum().item() if error > 2 * by_bits else 0.0


def by_input(layer: nn.Module, values: Any) -> Any:
    """`values` (one number, or one for each input channel), reshaped for multiplication with the weights of `layer`."""
    if not isinstance(values, Tensor):
        return values
    weight: Any = layer.weight
    values = values.to(weight.dtype)
    if isinstance(layer, nn.Linear):
        return values.view(1, -1)
    groups: Any = layer.groups
    return values.view(groups, -1).repeat_interleave(len(weight) // groups, 0)[(..., *[None] * (weight.dim() - 2))]
