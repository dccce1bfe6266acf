"""Selection of the accumulator of every group of a plan, and insertion of its integers into the network."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.hardware.integer.accumulator import FINEST, Accumulator, IntegerLayer, Term, Theta, accumulate, by_input
from snnconv.hardware.integer.groups import Group, Value
from snnconv.hardware.integer.neuron import EXACT, WidthError
from snnconv.hardware.integer.operations import LOGITS, Digitize, Requantize, Times
from snnconv.hardware.integer.plan import Plan
from snnconv.nn.quantization import LayerBits, largest_integer, over_outputs
from snnconv.spiking.network import OverTime

WIDTHS = range(16, 7, -1)  # bits of a sum that goes on to a weight layer
FINEST_OF_IMAGES = (
    2**18,
    2**17,
    2**16,
)  # units in a threshold where an image is the input, which has many values of its own
STEPS = 64  # of the largest negative current that calibration images cause: they must not leave ±2^24
LOST = 0.05  # relative squared error of the weights above which their bits have vanished
INT32 = 31  # bits beside the sign


class Quantizer:
    """Inserts integers into the network of a plan, group by group.

    `layers` holds them by path, `units` [C] the unit of the potentials of each neuron and of the logits, and `requantized` the bits
    of the sums that a weight layer receives from another one (None: not rounded).
    """

    def __init__(
        self, plan: Plan, images: list[Tensor], bits: LayerBits, per_channel: bool, membrane_bits: int | None
    ) -> None:
        self.plan, self.images = plan, images
        self.bits, self.per_channel, self.membrane_bits = bits, per_channel, membrane_bits
        self.accumulators: dict[Group, Accumulator] = {}
        self.layers: dict[str, IntegerLayer] = {}
        self.units: dict[str, Tensor] = {}
        self.requantized: dict[str, int | None] = {}

    def quantize(self, group: Group) -> None:
        """Quantize `group`, after the groups whose sums it receives.  ValueError if sums could exceed ±2^24 or weights vanish."""
        sources = [value.group for _, value in group.layers if value.group is not None]
        for source in sources:
            self.quantize(source)
        if group in self.accumulators:
            return
        candidates = {}
        for width in (None, *WIDTHS) if sources else (None,):
            if (terms := self._terms(group, width)) is not None:
                candidates[width] = self._accumulate(group, terms)
        exact = {width: sums for width, sums in candidates.items() if sums.bound.max() < EXACT}
        if not exact:
            least = min(sums.bound.max().item() for sums in candidates.values())
            raise WidthError(f"{group.name}: the current of a step could reach {least:.3g} units, but float32 represents integers "
                             "only up to 2^24; use fewer bits or image_bits, or a larger θ")  # fmt: skip
        width = min(exact, key=lambda width: exact[width].noise)
        self._require_weights(group, exact[width])
        self.accumulators[group] = exact[width]
        self._install(group, exact[width], width)

    def _terms(self, group: Group, width: int | None) -> list[Term] | None:
        """The layers of `group` with inputs of `width` bits; None where sums cannot be received unrounded (None)."""
        terms = []
        for node, value in group.layers:
            layer = self.plan.modules[str(node.target)]
            path = str(node.target)
            given = (value, None) if value.group is None else self._received(value.group, path, width)
            if given is None:
                return None
            terms.append(Term(layer, *given, bits=self.bits.of(path), window=group.window(path)))
        return terms

    def _received(self, source: Group, path: str, width: int | None) -> tuple[Value, Requantize | None] | None:
        """The sums of `source` as input of the layer at `path`: rounded to `width` bits, or (None) as they are, if units agree."""
        layer, bound = self.plan.modules[path], self.accumulators[source].bound
        unit = self.accumulators[source].unit * source.window(path)
        if width is None:
            met = by_input(layer, unit).flatten(1)  # the units that meet in one output
            return (Value(unit, bound, signed=True), None) if bool((met == met[:, :1]).all()) else None
        shift = INT32 - width
        common = (unit * bound).double().max().clamp_min(1e-30) / largest_integer(width)
        multiplier = (unit.double() / common * 2**shift).floor().clamp(1, 2**30).where(bound > 0, 1)
        scale = (unit.double() / multiplier * 2**shift).where(bound > 0, 0).float()  # exactly the unit after rounding
        rounded = ((bound.double() * multiplier + 2 ** (shift - 1)) / 2**shift).floor().float()
        return Value(scale, rounded, signed=True), Requantize(multiplier, shift)

    def _accumulate(self, group: Group, terms: list[Term], **other: Any) -> Accumulator:
        """The accumulator of `group`; where an image is its input, in the finest unit that leaves room for `STEPS` steps."""
        settings: dict[str, Any] = {
            "per_channel": self.per_channel
            and LOGITS not in group.readers,  # logits are compared, so they share a unit
            "membrane_bits": self.membrane_bits,
            "passed": LOGITS not in group.readers,
            **other,
        }
        shortcuts, theta = _shortcuts(group), self._theta(group, len(terms[0].layer.weight))
        drift = self._drift(group) if theta is not None and self.membrane_bits is None else None
        if drift is not None:
            for finest in FINEST_OF_IMAGES:
                sums = accumulate(terms, shortcuts, theta, finest=finest, **settings)
                if sums.bound.max() < EXACT and (drift / sums.unit * STEPS).max() < EXACT:
                    return sums
        return accumulate(terms, shortcuts, theta, finest=FINEST, **settings)

    def _theta(self, group: Group, channels: int) -> Theta | None:
        """θ of the neurons that read `group`; None where only weight layers or logits do."""
        modules = {path: self.plan.modules[path] for path in group.readers if path != LOGITS}
        thetas = [torch.as_tensor(module.neuron.threshold, dtype=torch.float64).float().expand(channels) / group.window(path)
                  for path, module in modules.items() if isinstance(module, OverTime)]  # fmt: skip
        return Theta(torch.stack(thetas).amin(0), torch.stack(thetas).amax(0)) if thetas else None

    def _drift(self, group: Group) -> Tensor | None:
        """The largest negative current [C] that calibration images cause; None unless one layer sees the images themselves."""
        if len(group.layers) != 1 or group.shortcuts:
            return None
        node, _ = group.layers[0]
        source = node.all_input_nodes[0]
        layer = self.plan.modules[str(node.target)]
        if source.op != "call_module" or not isinstance(self.plan.modules[str(source.target)], Digitize):
            return None
        lowest = [layer(x.float().cpu()).movedim(1, 0).flatten(1).amin(1) for x in self.images]
        return -torch.stack(lowest).amin(0).clamp_max(0)

    def _require_weights(self, group: Group, sums: Accumulator) -> None:
        """Raise a ValueError with a suitable width if the unit is too coarse for the weights."""
        if sums.loss <= LOST:
            return
        change = f"change by {100 * sums.loss**0.5:.0f} % when rounded to the unit of the potentials"
        message = f"{group.name}: the weights before it {change}"
        if self.membrane_bits is not None:
            enough = (bits for bits in range(self.membrane_bits + 1, 25)
                      if self._accumulate(group, sums.terms, membrane_bits=bits).loss <= LOST)  # fmt: skip
            if (bits := next(enough, None)) is not None:
                raise WidthError(f"{message}; membrane_bits={self.membrane_bits}: this layer needs at least {bits}")
        images = [term for term in sums.terms if term.value.signed and not isinstance(term.value.bound, Tensor)]
        for bits in range(15, 1, -1) if images else ():
            smaller = [
                replace(term, value=_narrowed(term.value, bits)) if term in images else term for term in sums.terms
            ]
            if self._accumulate(group, smaller).loss <= LOST:
                raise WidthError(f"{message}; use image_bits={bits} or fewer")
        raise WidthError(f"{message}; use fewer weight bits, or neurons of similar θ behind one sum")

    def _install(self, group: Group, sums: Accumulator, width: int | None) -> None:
        """Insert weights, shortcut factors and requantization into the network."""
        for (node, value), quantized, term in zip(group.layers, sums.layers, sums.terms, strict=True):
            name = str(node.target)
            term.layer.weight = nn.Parameter(
                quantized.integers * over_outputs(quantized.multiplier, quantized.integers)
            )
            term.layer.bias = nn.Parameter(quantized.bias)
            self.layers[name] = quantized
            if value.group is not None:
                self.requantized[name] = width
            if term.requantize is not None:
                self.plan.before(node, node.all_input_nodes[0], f"{name}_requantized", term.requantize)
        for number, (factor, (node, operand, _)) in enumerate(zip(sums.factors, group.shortcuts, strict=True)):
            self.plan.before(node, operand, f"{group.name}_shortcut_{number}", Times(factor))
        for path in group.readers:
            if path == LOGITS or isinstance(self.plan.modules[path], OverTime):
                self.units[path] = sums.unit * group.window(path)


def _shortcuts(group: Group) -> list[Value]:
    """Spikes on shortcuts, in the scale and with the bound that they have in the accumulator, after average pooling."""
    windows = [(value, group.window(node)) for node, _, value in group.shortcuts]
    return [replace(value, scale=value.scale / window, bound=value.bound * window) for value, window in windows]


def _narrowed(image: Value, bits: int) -> Value:
    """An image with fewer bits."""
    bound = largest_integer(bits)
    return Value(image.scale * image.bound / bound, bound, signed=True)
