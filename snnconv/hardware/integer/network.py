"""An integer spiking network: weights, biases, thresholds and potentials, for hardware without floating point.

Spikes are 0 or 1, so values are not rescaled between layers.  The potentials of a neuron have their own unit S (for each channel):
θ, biases and currents are integer multiples of it.  Scales are combined in five places, with integers that are computed before the
run: weights (integer · multiplier, a power of two if a neuron has one weight layer), a shortcut that adds spikes to a current (θ of
its source / S), the image (integers of `image_bits` bits), average pooling, which becomes a sum, and a weight layer that directly
follows another one: the sums of the first are multiplied, shifted and rounded in every step (`Requantize`).  accumulator.py has an
example.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.hardware.integer.accumulator import IntegerLayer
from snnconv.hardware.integer.biases import bias_of, fold_biases, initial_fraction, require_plain, without_debt
from snnconv.hardware.integer.groups import Value
from snnconv.hardware.integer.neuron import EXACT, IntegerIntegrateFire, WidthError, require_width
from snnconv.hardware.integer.operations import LOGITS, Times
from snnconv.hardware.integer.plan import Plan
from snnconv.hardware.integer.quantizer import Quantizer
from snnconv.nn.graph.folding import fold_amplitudes
from snnconv.nn.quantization import Bits, LayerBits, largest_integer, stored_bits
from snnconv.spiking.encoders.direct import Direct
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.base import per_channel
from snnconv.spiking.simulation import wanted_timesteps


@dataclass
class IntegerNetwork:
    """`snn` computes with integers stored in float32; `layers` and `neurons` hold the integers by path, `units` [C] the scales."""

    snn: SpikingModel
    layers: dict[str, IntegerLayer]
    neurons: dict[str, IntegerIntegrateFire]
    units: dict[str, Tensor]  # by path of the neuron, and of the logits
    requantized: dict[str, int | None]  # bits of the sums that a weight layer receives from another; None: not rounded

    def widths(self) -> dict[str, int]:
        """Number of bits needed by the potentials of each layer in all runs so far, including the sign."""
        return {path: _bits(*extremes) for path, extremes in self.extremes().items()}

    def extremes(self) -> dict[str, tuple[int, int]]:
        """The smallest and the largest potential of each layer in all runs so far; empty before the first."""
        nodes: dict[str, Any] = {path: neuron.node for path, neuron in self.neurons.items()}
        return {path: (int(node.least), int(node.most)) for path, node in nodes.items() if node.least.isfinite()}

    def summary(self) -> dict[str, Any]:
        """Content for JSON: widths, unused bits of 32-bit membranes, and bytes of the numbers as integers and in float32."""
        widths, layers = self.widths(), self.layers.values()
        neurons: list[Any] = list(self.neurons.values())
        words = sum(layer.multiplier.numel() + layer.bias.numel() for layer in layers)
        constants = [(neuron.node.theta, neuron.node.start, neuron.node.bias) for neuron in neurons]
        words += sum(values.numel() for each in constants for values in each if values is not None)
        return {
            "membrane_bits": widths,
            "margin_bits": {path: 32 - bits for path, bits in widths.items()},
            "extremes": {path: list(extremes) for path, extremes in self.extremes().items()},
            "requantized_bits": self.requantized,
            "weight_bytes": sum(stored_bits(layer.bits) * layer.integers.numel() for layer in layers) / 8 + 4 * words,
            "float_bytes": 4.0 * sum(layer.integers.numel() + layer.bias.numel() for layer in layers),
        }

    def require_exact(self) -> None:
        """Raise a ValueError naming the first layer whose potentials exceeded the integers that float32 represents exactly."""
        for path, (least, most) in self.extremes().items():
            if max(-least, most) >= EXACT:
                raise WidthError(f"{path}: its potentials exceed ±2^24 (from {least} to {most}); use fewer weight bits, fewer "
                                 "timesteps, or a saturating membrane (membrane_bits=24)")  # fmt: skip


def _bits(least: int, most: int) -> int:
    """Bits of a signed integer that holds both."""
    return 1 + max(max(most, 0).bit_length(), max(-least - 1, 0).bit_length())


@torch.no_grad()
def integerize(
    snn: SpikingModel,
    batches: Iterable[tuple[Tensor, Any]],
    *,
    timesteps: int | None = None,
    bits: Bits = 8,
    layers: Mapping[str, Bits] | None = None,
    per_channel: bool = True,
    image_bits: int = 8,
    membrane_bits: int | None = None,
) -> IntegerNetwork:
    """Convert `snn`, a network of integrate-and-fire neurons, to integers.

    v(0) may differ between neurons, and a bias between timesteps; neurons may ignore negative charge before their first spike.
    A constant bias becomes a part of the weight layer before the neuron, unless another layer receives the same sum.

    Args:
        snn: the spiking network; it is not changed.
        batches: batches (calibration images [N, …], targets); the largest pixel sets the unit of images, targets are not used.
        timesteps: T of a method that calibrates a network for each T; None: the T that `snn` was last prepared for.
        bits: bits of weights, after the θ of the neurons before them and batch norms are folded in; 2: ternary;
            "binary" and "power_of_two" as in `nn.quantization`.
        layers: other bits for weight layers whose path matches a pattern, {pattern: bits}; the first match counts.
        per_channel: a scale for each output channel, or one for the layer.
        image_bits: bits of the integer images.
        membrane_bits: bits of saturating potentials; None: as many as needed.  Units are chosen so that θ fits.

    θ and v(0) are rounded to units of the potentials; θ is at least 2^8 and at most 2^15 units, or 2^18 if images are the input.
    A weight layer that directly follows another one receives its sums unrounded if their units are equal, or rounded to 8 … 16
    bits: the option with the smallest rounding error whose own sums stay below 2^24.

    ValueError naming the layer: for other neurons, for operations without an integer counterpart, if the current of a step could
    exceed ±2^24, and if the widths are too small for the weights.
    """
    require_width(membrane_bits)
    widths = LayerBits(bits, layers)
    if type(per_channel) is not bool:
        raise ValueError(f"per_channel={per_channel!r}: must be true or false")
    if type(image_bits) is not int or not 2 <= image_bits <= 16:
        raise ValueError(f"image_bits={image_bits!r}: must be an integer from 2 to 16")
    if not isinstance(snn.encoder, Direct):
        raise ValueError(
            f"encoder={snn.encoder.name}: an integer network takes the same inputs in every step; use encoder=direct"
        )
    network = fold_amplitudes(copy.deepcopy(_network_for(snn, timesteps)).float().cpu().eval(), OverTime)
    for path, module in network.named_modules():
        if isinstance(module, OverTime):
            require_plain(path, module.neuron, bool(snn.timing.presented))
    images = [x for x, _ in batches]
    bound = largest_integer(image_bits)
    plan = Plan(network, Value(_largest_pixel(images) / bound, bound, signed=True), images[0][:1].float().cpu())
    widths.require_matches(dict.fromkeys(plan.weighted()), "integer.layers")
    fold_biases(plan)
    quantizer = Quantizer(plan, images, widths, per_channel, membrane_bits)
    for group in plan.groups:
        quantizer.quantize(group)
    for group, sums in quantizer.accumulators.items():
        for path in group.readers:
            if isinstance(clock := plan.modules.get(path), OverTime):
                clock.neuron = _neuron(path, clock.neuron, quantizer.units[path], sums.bound, membrane_bits)
    if plan.output_unit is not None:
        quantizer.units[LOGITS] = plan.output_unit
    model = snn.like(fx.GraphModule(plan.network, plan.graph), fold_threshold=False, precision="float32")
    neurons: Any = model.neurons()
    return IntegerNetwork(model, quantizer.layers, neurons, quantizer.units, quantizer.requantized)


def single_timesteps(snn: SpikingModel, timesteps: int | Sequence[int]) -> int | None:
    """The T of `timesteps` that the network is made for if it depends on T, else None.

    ValueError for several T, unless a network for the largest T serves the others too.
    """
    if snn.for_timesteps is None:
        return None
    listed = wanted_timesteps(timesteps)
    if len(listed) > 1 and not snn.timing.anytime:
        raise ValueError(f"method {snn.method}: its network depends on T, and integers are for one network; choose one T, for "
                         f"example timesteps=[{listed[-1]}]")  # fmt: skip
    return listed[-1]


def _network_for(snn: SpikingModel, timesteps: int | None) -> nn.Module:
    """The network of `snn`, for T = `timesteps` if it depends on T."""
    if snn.for_timesteps is not None and timesteps is not None:
        return snn.for_timesteps(timesteps)
    if snn.for_timesteps is not None and not snn.prepared_timesteps:
        raise ValueError(f"method {snn.method}: its network depends on T; pass timesteps=…, the T at which it will run")
    return (snn.exact or snn).network


def in_real_units(network: IntegerNetwork) -> SpikingModel:
    """The spiking model of `network`, with outputs in the unit of the ANN's, as numbers and probabilities need them.

    The classes of `task=classify` do not, and their model is returned as it is.  Neurons are shared with `network`.
    """
    snn, unit = network.snn, network.units.get(LOGITS)
    if snn.task.name == "classify" or unit is None:
        return snn
    return snn.like(nn.Sequential(OrderedDict(integers=snn.network, unit=Times(unit.float()))))


def _largest_pixel(images: list[Tensor]) -> float:
    """The largest absolute value; ValueError without images, or if a value is not finite."""
    for number, x in enumerate(images):
        if not bool(x.isfinite().all()):
            raise ValueError(f"calibration batch {number}: contains NaN or infinite pixels; remove these images")
    largest = max((x.abs().max().item() for x in images), default=0.0)
    if not largest > 0:
        raise ValueError(
            "calibration images are needed for the unit of images, and there are none; set data.calibration to 100 or more"
        )
    return largest


def _neuron(path: str, neuron: Any, unit: Tensor, bound: Tensor, bits: int | None) -> IntegerIntegrateFire:
    """The neuron at `path` in integers: θ, v(0) and bias in units of its potentials; `bound` limits its current."""
    theta = torch.as_tensor(neuron.threshold, dtype=torch.float64)
    threshold = (theta / unit.double()).round()
    if threshold.max() >= EXACT:
        raise WidthError(f"{path}: its θ is {threshold.max():.3g} units, because it shares a current with neurons of a much "
                         "smaller θ, but float32 represents integers only up to 2^24")  # fmt: skip
    fraction = torch.as_tensor(initial_fraction(neuron), dtype=torch.float64).cpu()
    v_initial = (fraction * per_channel((theta / unit.double()).expand(len(unit)), fraction, axis=0)).round()
    if v_initial.abs().max() >= EXACT:
        raise WidthError(
            f"{path}: v(0) is up to {v_initial.abs().max():.3g} units, but float32 represents integers only up to 2^24"
        )
    bias = bias_of(neuron)
    if bias is not None:
        bias = (bias.cpu() / unit.double()).round()
        largest = (bias.abs().amax(0) + bound).max()
        if largest >= EXACT:
            raise WidthError(f"{path}: current and bias of a step could reach {largest:.3g} units, but float32 represents "
                             "integers only up to 2^24; use fewer bits or image_bits, or a larger θ")  # fmt: skip
    try:
        return IntegerIntegrateFire(threshold, v_initial, bits, bias, without_debt(neuron))
    except ValueError as error:
        raise WidthError(f"{path}: {error}") from error
