"""A spiking network in whole numbers: integer weights, biases, thresholds and membranes, for hardware without floating point.

Spikes are 0 or 1, so between layers nothing has to be rescaled.  Each neuron's membrane has its own unit S (per channel): θ, biases
and currents are whole multiples of it.  Scales meet in five places, each with whole numbers that are known beforehand:
weights (integer · multiplier; a power of two where a neuron has one weight layer), a shortcut that adds spikes to a current (θ of
its source / S), the image (integers of `image_bits` bits), average pooling, which becomes a sum, and weight layers that follow each
other, where the current of the first is multiplied, shifted and rounded in every step (`Requantize`).
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from snnconv.hardware.integer.neuron import EXACT, IntegerIntegrateFire
from snnconv.hardware.integer.operations import LOGITS, Digitize, Requantize, SumPool, Times
from snnconv.hardware.integer.plan import Group, Plan, Value
from snnconv.nn.graph.folding import fold_amplitudes
from snnconv.nn.quantization import largest_integer, over_outputs, quantize, quantize_to
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

__all__ = ["LOGITS", "Digitize", "IntegerLayer", "IntegerNetwork", "Requantize", "SumPool", "Times", "integerize"]

RESOLUTION = 2**8  # units of the membrane in a threshold, at least; and in a weight's unit where weight layers meet
FINEST = 2**15  # units of the membrane in a threshold, at most: weights that are smaller than one do not matter
PASSED = 2**16  # units in the largest current that goes on to a weight layer, at least, where biases are among them
WIDTHS = range(16, 7, -1)  # bits of what goes on to a weight layer
TYPICAL = 8  # how many times larger the largest current is that weights allow than those that come: a guess, for choosing a width
INT32 = 31  # bits beside the sign


@dataclass
class IntegerLayer:
    """A weight layer in whole numbers: its part of a membrane is multiplier · (integers ∗ input) + bias."""

    bits: int
    integers: Tensor
    multiplier: Float[Tensor, " C"]
    bias: Float[Tensor, " C"]


@dataclass
class IntegerNetwork:
    """`snn` runs on whole numbers; `layers` and `neurons` say which, by path; `units` [C] are what they count in."""

    snn: SpikingModel
    layers: dict[str, IntegerLayer]
    neurons: dict[str, IntegerIntegrateFire]
    units: dict[str, Tensor]  # by path of the neuron, and of the logits
    passed: dict[
        str, int | None
    ]  # bits of the currents that a weight layer receives from another one; None: not rounded

    def widths(self) -> dict[str, int]:
        """Bits that the potentials of each layer needed, sign included, in all that was run so far."""
        return {path: _bits(*extremes) for path, extremes in self.extremes().items()}

    def extremes(self) -> dict[str, tuple[int, int]]:
        """The least and the largest potential of each layer in all that was run so far."""
        nodes: dict[str, Any] = {path: neuron.node for path, neuron in self.neurons.items()}
        return {path: (int(node.least), int(node.most)) for path, node in nodes.items()}

    def summary(self) -> dict[str, Any]:
        """For a file: widths, bits that 32-bit membranes have left, and bytes, of integers and of the same in float32."""
        widths, layers = self.widths(), self.layers.values()
        neurons: list[Any] = list(self.neurons.values())
        words = sum(layer.multiplier.numel() + layer.bias.numel() for layer in layers)
        words += sum(2 * neuron.node.theta.numel() for neuron in neurons)
        return {
            "membrane_bits": widths,
            "margin_bits": {path: 32 - bits for path, bits in widths.items()},
            "extremes": {path: list(extremes) for path, extremes in self.extremes().items()},
            "requantized_bits": self.passed,
            "weight_bytes": sum(layer.bits * layer.integers.numel() for layer in layers) / 8 + 4 * words,
            "float_bytes": 4.0 * sum(layer.integers.numel() + layer.bias.numel() for layer in layers),
        }

    def require_exact(self) -> None:
        """ValueError naming the first layer whose potentials left the whole numbers that float32 holds."""
        for path, (least, most) in self.extremes().items():
            if max(-least, most) >= EXACT:
                raise ValueError(f"{path}: its potentials leave ±2^24 (from {least} to {most}); use fewer weight bits, fewer "
                                 "timesteps, or a saturating membrane (membrane_bits=24)")  # fmt: skip


def _bits(least: int, most: int) -> int:
    """Of a signed integer that holds both."""
    return 1 + max(max(most, 0).bit_length(), max(-least - 1, 0).bit_length())


@torch.no_grad()
def integerize(
    snn: SpikingModel,
    batches: Iterable[tuple[Tensor, Any]],
    *,
    bits: int = 8,
    per_channel: bool = True,
    image_bits: int = 8,
    membrane_bits: int | None = None,
) -> IntegerNetwork:
    """`snn`, a network of plain integrate-and-fire neurons, in whole numbers; images are scaled by the largest of `batches`.

    Weights have `bits` bits (`quantization.quantize`, after θ of the neurons before them and batch norms are folded in); θ and v(0)
    are rounded to units of the membrane, of which θ has at least `RESOLUTION`.  With `membrane_bits` potentials saturate.

    A weight layer that follows another one receives its currents unrounded, where their units agree, or rounded to 8 … 16 bits for
    the largest that weights and inputs allow: whichever keeps its sums below 2^24 and loses least by rounding.

    ValueError naming the layer: for other neurons, for operations that have no counterpart here, and where a step's current could
    leave ±2^24.
    """
    for path, neuron in snn.neurons().items():
        if type(neuron) is not IntegrateFire or snn.for_timesteps or snn.timing.presented:
            raise ValueError(f"{path} ({type(neuron).__name__}): whole numbers are made of plain integrate-and-fire neurons "
                             "(method=qcfs, or a rule for thresholds: max_norm, mse, …)")  # fmt: skip
    network = fold_amplitudes(copy.deepcopy((snn.exact or snn).network).float().cpu(), OverTime)
    images = [x for x, _ in batches]
    largest = max((x.abs().max().item() for x in images), default=0.0)
    if not largest > 0:
        raise ValueError(
            "the unit of images comes from calibration images, and there are none; set data.calibration to 100 or more"
        )
    most = largest_integer(image_bits)
    plan = Plan(network, Value(largest / most, most, signed=True), images[0][:1].float().cpu())
    done = _Carried(plan, bits, per_channel)
    for group in plan.groups:
        done.carry_out(group)
    for path, unit in done.units.items():
        if path != LOGITS:
            plan.modules[path].neuron = _neuron(path, plan.modules[path].neuron, unit, membrane_bits)
    model = snn.like(fx.GraphModule(plan.network, plan.graph), fold_threshold=False, precision="float32")
    neurons: Any = model.neurons()
    return IntegerNetwork(model, done.layers, neurons, done.units, done.passed)


@dataclass
class _Sums:
    """The sums of a group in one way to receive currents: their unit [C], and what they are made of."""

    unit: Tensor
    layers: list[IntegerLayer]
    factors: list[Tensor]  # of spikes that pass weights by
    handed: list[tuple[Value, Requantize | None]]  # what the weight layers see, and what makes it
    most: Tensor  # how large they could become
    noise: float  # mean square of what rounding is expected to change, in thresholds


class _Carried:
    """Puts whole numbers into the network of a plan, group by group."""

    def __init__(self, plan: Plan, bits: int, per_channel: bool) -> None:
        self.plan, self.bits, self.per_channel = plan, bits, per_channel
        self.sums: dict[Group, _Sums] = {}
        self.layers: dict[str, IntegerLayer] = {}
        self.units: dict[str, Tensor] = {}
        self.passed: dict[str, int | None] = {}

    def carry_out(self, group: Group) -> None:
        """`group`, after those whose currents it receives.  ValueError where its sums could leave ±2^24."""
        sources = [seen.group for _, seen in group.layers if seen.group is not None]
        for source in sources:
            self.carry_out(source)
        if group in self.sums:
            return
        ways = {width: self._sums(group, width) for width in ((None, *WIDTHS) if sources else (None,))}
        known = {width: sums for width, sums in ways.items() if sums is not None}
        exact = {width: sums for width, sums in known.items() if sums.most.max() < EXACT}
        if not exact:
            least = min(sums.most.max().item() for sums in known.values())
            raise ValueError(f"{_site(group)}: a step's current could reach {least:.3g} units, and float32 holds whole numbers up "
                             "to 2^24; use fewer bits or image_bits, or a larger θ")  # fmt: skip
        width = min(exact, key=lambda width: exact[width].noise)
        self.sums[group] = exact[width]
        self._install(group, exact[width], width)

    def _sums(self, group: Group, width: int | None) -> _Sums | None:
        """What `group` adds up if it receives currents of `width` bits; None where they cannot be received unrounded (None)."""
        modules = [self.plan.modules[str(node.target)] for node, _ in group.layers]
        handed = [self._handed(seen, layer, width) for (_, seen), layer in zip(group.layers, modules, strict=True)]
        if any(value is None for value, _ in handed):
            return None
        each = self.per_channel and LOGITS not in group.readers  # logits are compared, so they share a unit
        seen = list(zip(modules, handed, strict=True))
        weights = [layer.weight * _by_input(layer, value.scale) for layer, (value, _) in seen]
        scales = [quantize(weight, self.bits, each).scale for weight in weights]
        theta = self._theta(group, scales[0])
        parts = [(weight * _by_input(layer, value.most)).abs().flatten(1).sum(1) for weight, (layer, (value, _)) in
                 zip(weights, seen, strict=True)]  # fmt: skip
        largest = sum(parts) + sum(layer.bias.abs() for layer in modules if layer.bias is not None)
        unit = self._unit(group, torch.stack(scales).amin(0), theta, largest)
        layers, (up, down, noise) = [], (torch.zeros_like(unit) for _ in range(3))
        for weight, scale, (layer, (value, requantize)) in zip(weights, scales, seen, strict=True):
            multiplier = (scale / unit * (1 - 1e-6)).ceil().clamp_min(1)  # up, so that no weight is cut off
            made = quantize_to(multiplier * unit, weight, self.bits, each)
            bias = torch.zeros_like(unit) if layer.bias is None else (layer.bias / unit).round()
            layers.append(IntegerLayer(self.bits, made.integers, multiplier, bias))
            product = (made.integers * over_outputs(multiplier, weight) * _by_input(layer, value.most)).flatten(1)
            above, below = product.clamp_min(0).sum(1), -product.clamp_max(0).sum(1)
            up += bias.abs() + above + (below if value.signed else 0)
            down += bias.abs() + below + (above if value.signed else 0)
            typical = _by_input(layer, value.most) / TYPICAL
            rounded = ((made.values - weight) * typical) ** 2 + (0 if requantize is None else weight**2 / 12)
            noise += rounded.flatten(1).sum(1)
        factors = [(seen.scale / unit).round().float() for _, _, seen in group.direct]
        for factor, (_, _, added) in zip(factors, group.direct, strict=True):
            up += factor * added.most
            down += factor * (added.most if added.signed else 0)
        strength = (noise / (1 if theta is None else theta) ** 2).mean().item()
        return _Sums(unit, layers, factors, handed, torch.maximum(up, down), strength)

    def _handed(self, seen: Value, layer: Any, width: int | None) -> tuple[Any, Requantize | None]:
        """What `layer` receives: spikes or images as they are, currents in `width` bits or (None) as they are, if that goes."""
        if seen.group is None:
            return seen, None
        unit, most = self.sums[seen.group].unit, self.sums[seen.group].most
        if width is None:
            met = _by_input(layer, unit).flatten(1)
            agree = bool((met == met[:, :1]).all())  # the units that meet in one output
            return (Value(unit, most, signed=True) if agree else None), None
        shift = INT32 - width
        common = (unit * most).double().max().clamp_min(1e-30) / largest_integer(width)
        multiplier = (unit.double() / common * 2**shift).floor().clamp(1, 2**30).where(most > 0, 1)
        scale = (unit.double() / multiplier * 2**shift).where(most > 0, 0).float()  # exactly what a unit now stands for
        bound = ((most.double() * multiplier + 2 ** (shift - 1)) / 2**shift).floor().float()
        return Value(scale, bound, signed=True), Requantize(multiplier, shift)

    def _theta(self, group: Group, like: Tensor) -> Tensor | None:
        """The least θ of the neurons that read `group`, [C]; None where only weight layers or logits do."""
        modules = [self.plan.modules[path] for path in group.readers if path != LOGITS]
        found = [torch.as_tensor(module.neuron.threshold, dtype=torch.float64).to(like).expand_as(like)
                 for module in modules if isinstance(module, OverTime)]  # fmt: skip
        return torch.stack(found).amin(0) if found else None

    def _unit(self, group: Group, scale: Tensor, theta: Tensor | None, largest: Tensor) -> Tensor:
        """What sums count in, [C]: the weights' scale divided by a power of two, but within limits that θ sets.

        Where only weight layers read them, the `largest` sum takes the place of θ.
        """
        wanted = torch.full_like(scale, RESOLUTION if len(group.layers) + len(group.direct) > 1 else 1)
        if theta is not None:
            wanted = torch.maximum(wanted, RESOLUTION * scale / theta)
            return torch.maximum(scale / 2 ** wanted.log2().ceil(), theta / FINEST)
        if LOGITS not in group.readers and any(
            self.plan.modules[str(node.target)].bias is not None for node, _ in group.layers
        ):
            wanted = torch.maximum(wanted, PASSED * scale / largest.clamp_min(1e-30))
        return scale / 2 ** wanted.log2().ceil()

    def _install(self, group: Group, sums: _Sums, width: int | None) -> None:
        """Weights, factors and what requantizes into the network."""
        for (node, seen), made, (_, requantize) in zip(group.layers, sums.layers, sums.handed, strict=True):
            name, layer = str(node.target), self.plan.modules[str(node.target)]
            layer.weight = nn.Parameter(made.integers * over_outputs(made.multiplier, made.integers))
            layer.bias = nn.Parameter(made.bias)
            self.layers[name] = made
            if seen.group is not None:
                self.passed[name] = width
            if requantize is not None:
                self.plan.before(node, node.all_input_nodes[0], f"{name}_requantized", requantize)
        for number, (factor, (node, operand, _)) in enumerate(zip(sums.factors, group.direct, strict=True)):
            self.plan.before(node, operand, f"{_site(group)}_shortcut_{number}", Times(factor))
        for path in group.readers:
            if path == LOGITS or isinstance(self.plan.modules[path], OverTime):
                self.units[path] = sums.unit


def _site(group: Group) -> str:
    """What an error names: the first that reads the sums."""
    return group.readers[0] if group.readers else str(group.layers[0][0].target)


def _by_input(layer: Any, values: Any) -> Any:
    """`values`, a number or one for each input channel, shaped to meet the weights of `layer`."""
    if not isinstance(values, Tensor):
        return values
    values = values.to(layer.weight.dtype)
    if isinstance(layer, nn.Linear):
        return values.view(1, -1)
    outputs = len(layer.weight) // layer.groups
    return values.view(layer.groups, -1).repeat_interleave(outputs, 0)[(..., *[None] * (layer.weight.dim() - 2))]


def _neuron(path: str, neuron: Any, unit: Tensor, bits: int | None) -> IntegerIntegrateFire:
    theta = torch.as_tensor(neuron.threshold, dtype=torch.float64)
    threshold = (theta / unit.double()).round()
    if threshold.max() >= EXACT:
        raise ValueError(f"{path}: its θ is {threshold.max():.3g} units of a current that it shares with neurons of a much smaller "
                         "θ, and float32 holds whole numbers up to 2^24")  # fmt: skip
    if isinstance(neuron.v_initial, Tensor) and neuron.v_initial.dim() > 0:
        raise ValueError(
            f"{path}: v(0) differs from neuron to neuron, and is rounded here for each channel alone; use another method"
        )
    first = (float(neuron.v_initial) * theta / unit.double()).round()
    try:
        return IntegerIntegrateFire(threshold, first, bits)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
