"""A spiking network in whole numbers: integer weights, biases, thresholds and membranes, for hardware without floating point.

Spikes are 0 or 1, so between layers nothing has to be rescaled.  Each neuron's membrane has its own unit S (per channel): θ, biases
and currents are whole multiples of it.  Scales meet in four places, each with a whole multiplier that is known beforehand:
weights (integer · multiplier; a power of two where a neuron has one weight layer), a shortcut that adds spikes to a current (θ of
its source / S), the image (integers of `image_bits` bits), and average pooling, which becomes a sum.
"""

import copy
import math
import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from snnconv.neurons.integer import EXACT, IntegerIntegrateFire
from snnconv.neurons.integrate_fire import IntegrateFire
from snnconv.quantization import largest_integer, over_outputs, quantize, quantize_to
from snnconv.spiking import OverTime, SpikingModel
from snnconv.surgery import WEIGHTED, Operation, fold_amplitudes, path_of, set_submodule, trace

LOGITS = "(logits)"
RESOLUTION = 2**8  # units of the membrane in a threshold, at least; and in a weight's unit where weight layers meet
FINEST = 2**15  # units of the membrane in a threshold, at most: weights that are smaller than one do not matter
PASSING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
SHAPING = (
    operator.getitem,
    torch.flatten,
    torch.reshape,
    F.pad,
    "flatten",
    "view",
    "reshape",
    "contiguous",
    "size",
    getattr,
)


class Digitize(Operation):
    """Images in whole numbers: round(x / unit), within ±`most`."""

    def __init__(self, unit: float, most: int) -> None:
        super().__init__()
        self.unit, self.most = unit, most

    def forward(self, x: Float[Tensor, "N *shape"]) -> Float[Tensor, "N *shape"]:
        """Integers."""
        return (x / self.unit).round().clamp(-self.most, self.most)


class SumPool(Operation):
    """Sums over windows: average pooling without its division.  `kernel` None: over all of height and width."""

    def __init__(self, kernel: Any = None, stride: Any = None, padding: Any = 0) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C h w"]:
        """The sums."""
        if self.kernel is None:
            return x.sum((-2, -1), keepdim=True)
        return F.avg_pool2d(x, self.kernel, self.stride, self.padding, divisor_override=1)


class Times(Operation):
    """Spikes of another unit in that of a membrane: x · `factor` [C], whole numbers."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, x: Float[Tensor, "N C *space"]) -> Float[Tensor, "N C *space"]:
        """The product."""
        factor: Any = self.factor
        return x * factor.to(x).view(-1, *[1] * (x.dim() - 2))


@dataclass
class _Value:
    """What a node of the graph holds: whole numbers in units of `scale`, at most `most`; or a current, that of `group`."""

    scale: float = 1.0
    most: int = 1
    group: "_Group | None" = None


@dataclass(eq=False)
class _Group:
    """What is added up before one neuron, or before the logits: weight layers and what they see, and spikes added past weights."""

    layers: list[tuple[str, _Value]] = field(default_factory=list)
    direct: list[tuple[fx.Node, fx.Node, _Value]] = field(default_factory=list)  # (addition, operand, what it holds)


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

    ValueError naming the layer: for other neurons, for operations that have no counterpart here, where two weight layers follow
    each other without a neuron, and where a step's current could leave ±2^24.
    """
    for path, neuron in snn.neurons().items():
        if type(neuron) is not IntegrateFire or snn.for_timesteps or snn.presented:
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
    plan = _Plan(network, _Value(largest / most, most), images[0][:1].float().cpu())
    layers, units = _carry_out(plan, bits, per_channel, membrane_bits)
    settings = {**snn._settings(), "fold_threshold": False, "precision": "float32"}
    model = SpikingModel(fx.GraphModule(plan.network, plan.graph), **settings)
    neurons: Any = model.neurons()
    return IntegerNetwork(model, layers, neurons, units)


class _Plan:
    """Follows the graph of a network: what every node holds, and which weight layers and shortcuts meet before which neuron.

    Average pooling becomes a sum on the way, and images are digitized.
    """

    def __init__(self, network: nn.Module, image: _Value, example: Tensor) -> None:
        self.network, self.graph = network, trace(network, (OverTime,))
        ShapeProp(fx.GraphModule(network, self.graph)).propagate(example)
        self.graph.owning_module = None  # modules are added to the network itself
        self.modules = dict(network.named_modules())
        self.values: dict[fx.Node, _Value] = {}
        self.sinks: dict[str, _Group] = {}
        self.same: dict[_Group, _Group] = {}  # groups that an addition has made one
        self.made: list[fx.Node] = []
        self.gone: list[fx.Node] = []
        uses = Counter(node.target for node in self.graph.nodes if node.op == "call_module")
        for node in list(self.graph.nodes):
            if (
                node.op == "call_module"
                and uses[node.target] > 1
                and isinstance(self.modules[str(node.target)], WEIGHTED)
            ):
                raise ValueError(
                    f"{node.target}: used {uses[node.target]} times, but its integers depend on where it stands"
                )
            self.values[node] = value = self._value(node, image)
            self.values |= dict.fromkeys(self.made, value)  # whatever now stands for it
            self.made.clear()
        for node in self.gone:
            self.graph.erase_node(node)

    def group(self, value: _Value) -> _Group | None:
        """The group that a value is a part of, after all additions."""
        group = value.group
        while group in self.same:
            group = self.same[group]
        return group

    def _value(self, node: fx.Node, image: _Value) -> _Value:
        inputs = [self.values[source] for source in node.all_input_nodes]
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        if node.op == "placeholder":
            self._replace(node, "digitize", Digitize(image.scale, image.most))
            return image
        if node.op == "output":
            self.sinks[LOGITS] = self._current(node, inputs)
            return inputs[0]
        if isinstance(module, OverTime):
            self.sinks[str(node.target)] = self._current(node, inputs)
            amplitude: Any = module.neuron.amplitude
            if isinstance(amplitude, Tensor):
                raise ValueError(f"{node.target}: emits another θ in each channel, and an addition needs them; use one θ a layer "
                                 "(method.per_channel=false)")  # fmt: skip
            return _Value(scale=float(amplitude))
        if isinstance(module, WEIGHTED):
            if inputs[0].group is not None:
                raise ValueError(f"{node.target}: follows another weight layer without a neuron between them, so its input is no "
                                 "whole number of a fixed unit")  # fmt: skip
            return _Value(group=_Group(layers=[(str(node.target), inputs[0])]))
        if node.target in ADDITIONS and len(inputs) == 2:
            return self._sum(node, inputs)
        if isinstance(module, PASSING) or (node.target in (F.dropout, "contiguous")):
            return inputs[0]
        pooled = self._pooled(node, module, inputs)
        if pooled is not None:
            return pooled
        if node.target in ("size", getattr) or (inputs and inputs[0].group is None and _shapes(node, module)):
            return inputs[0]
        raise ValueError(f"{path_of(node)} ({_name(node, module)}): has no counterpart in whole numbers here")

    def _current(self, node: fx.Node, inputs: list[_Value]) -> _Group:
        group = self.group(inputs[0])
        if group is None:
            raise ValueError(f"{path_of(node)}: receives spikes or images without a weight layer before it")
        return group

    def _sum(self, node: fx.Node, inputs: list[_Value]) -> _Value:
        first, second = (self.group(value) for value in inputs)
        if first is not None and second is not None:
            if first is not second:
                first.layers += second.layers
                first.direct += second.direct
                self.same[second] = first
            return inputs[0]
        if first is None and second is None:
            one, other = inputs
            if not math.isclose(one.scale, other.scale):
                raise ValueError(
                    f"{path_of(node)}: adds spikes of θ = {one.scale:.4g} and {other.scale:.4g} without weights"
                )
            return _Value(one.scale, one.most + other.most)
        direct = 0 if first is None else 1
        group = first or second
        assert group is not None
        group.direct.append((node, node.all_input_nodes[direct], inputs[direct]))
        return inputs[1 - direct]

    def _pooled(self, node: fx.Node, module: nn.Module | None, inputs: list[_Value]) -> _Value | None:
        """What average pooling leaves, None where there is none: sums, in units of scale / window."""
        shape = (
            node.all_input_nodes[0].meta["tensor_meta"].shape
            if inputs and "tensor_meta" in node.all_input_nodes[0].meta
            else ()
        )
        settings: Any
        exact: Any
        if isinstance(module, nn.AvgPool2d):
            settings = module.kernel_size, module.stride, module.padding
            exact = module.count_include_pad and not module.ceil_mode and module.divisor_override is None
        elif node.target is F.avg_pool2d:
            known = dict(zip(("input", "kernel_size", "stride", "padding"), node.args, strict=False)) | dict(
                node.kwargs
            )
            settings = known["kernel_size"], known.get("stride") or known["kernel_size"], known.get("padding", 0)
            exact = (
                not known.get("ceil_mode")
                and known.get("count_include_pad", True)
                and not known.get("divisor_override")
            )
        elif isinstance(module, nn.AdaptiveAvgPool2d) or node.target is F.adaptive_avg_pool2d:
            size = (
                module.output_size
                if isinstance(module, nn.AdaptiveAvgPool2d)
                else (*node.args[1:], *node.kwargs.values())[0]
            )
            settings, exact = (shape[-2:], shape[-2:], 0), size in (1, (1, 1), [1, 1])
        else:
            return None
        if inputs[0].group is not None or not exact:
            raise ValueError(
                f"{path_of(node)} ({_name(node, module)}): only plain or global average pooling of spikes becomes a sum"
            )
        kernel = settings[0] if isinstance(settings[0], tuple | list | torch.Size) else (settings[0], settings[0])
        whole = tuple(kernel) == tuple(shape[-2:]) and settings[2] in (0, (0, 0))
        self._instead(node, f"{path_of(node)}_sum", SumPool() if whole else SumPool(*settings))
        window = kernel[0] * kernel[1]
        return _Value(inputs[0].scale / window, inputs[0].most * window)

    def _instead(self, node: fx.Node, name: str, module: nn.Module) -> None:
        """`module` in the place of `node`, on its first input."""
        with self.graph.inserting_before(node):
            other = self.graph.call_module(self._add(name, module), (node.all_input_nodes[0],))
        other.meta = dict(node.meta)
        node.replace_all_uses_with(other)
        self.made.append(other)
        self.gone.append(node)

    def _replace(self, node: fx.Node, name: str, module: nn.Module) -> None:
        """`module` behind `node`, for all that read it."""
        users = list(node.users)
        with self.graph.inserting_after(node):
            other = self.graph.call_module(self._add(name, module), (node,))
        other.meta = dict(node.meta)
        for user in users:
            user.replace_input_with(node, other)
        self.made.append(other)

    def _add(self, name: str, module: nn.Module) -> str:
        """Make `module` a part of the network, at the top, under a name that is free."""
        name = name.replace(".", "_").replace(" ", "_")
        free = name if not hasattr(self.network, name) else f"{name}_{len(self.modules)}"
        set_submodule(self.network, free, module)
        self.modules[free] = module
        return free


def _shapes(node: fx.Node, module: nn.Module | None) -> bool:
    """Does `node` only move elements, or put zeros beside them?"""
    if node.target is F.pad:
        settings = (*node.args[2:], *node.kwargs.values())
        return all(value in ("constant", None, 0) for value in settings)
    return isinstance(module, nn.Flatten) or (node.op != "call_module" and node.target in SHAPING)


def _name(node: fx.Node, module: nn.Module | None) -> str:
    return type(module).__name__ if module is not None else f"calls {getattr(node.target, '__name__', node.target)}"


def _carry_out(
    plan: _Plan, bits: int, per_channel: bool, membrane_bits: int | None
) -> tuple[dict[str, IntegerLayer], dict[str, Tensor]]:
    """Put whole numbers into the network of `plan`; returns its layers, and the units of its membranes, by path."""
    done: dict[str, IntegerLayer] = {}
    units: dict[str, Tensor] = {}
    for path, group in plan.sinks.items():
        each = per_channel and path != LOGITS  # logits are compared, so they share a unit
        layers = [(name, plan.modules[name], seen) for name, seen in group.layers]
        scales = [quantize(layer.weight * seen.scale, bits, each).scale for _, layer, seen in layers]
        neuron = plan.modules[path].neuron if path != LOGITS else None
        unit = _unit(torch.stack(scales).amin(0), neuron, together=len(layers) + len(group.direct) > 1)
        bound = torch.zeros_like(unit)
        for (name, layer, seen), scale in zip(layers, scales, strict=True):
            multiplier = (scale / unit * (1 - 1e-6)).ceil().clamp_min(1)  # up, so that no weight is cut off
            integers = quantize_to(multiplier * unit, layer.weight * seen.scale, bits, each).integers
            bias = torch.zeros_like(unit) if layer.bias is None else (layer.bias / unit).round()
            layer.weight = nn.Parameter(integers * over_outputs(multiplier, integers))
            layer.bias = nn.Parameter(bias)
            done[name] = IntegerLayer(bits, integers, multiplier, bias)
            bound += layer.weight.abs().flatten(1).sum(1) * seen.most + bias.abs()
        for number, (node, operand, seen) in enumerate(group.direct):
            factor = (seen.scale / unit).round()
            name = plan._add(f"{path}_shortcut_{number}", Times(factor))
            with plan.graph.inserting_before(node):
                node.replace_input_with(operand, plan.graph.call_module(name, (operand,)))
            bound += factor * seen.most
        if bound.max() >= EXACT:
            raise ValueError(f"{path}: a step's current could reach {bound.max():.3g} units, and float32 holds whole numbers up to "
                             "2^24; its θ is too small for its weights, or image_bits too large")  # fmt: skip
        units[path] = unit
        if neuron is not None:
            plan.modules[path].neuron = _neuron(path, neuron, unit, membrane_bits)
    return done, units


def _unit(scale: Tensor, neuron: Any, together: bool) -> Tensor:
    """What a membrane counts in, [C]: the weights' scale divided by a power of two, but within limits that θ sets."""
    wanted = torch.full_like(scale, RESOLUTION if together else 1)
    if neuron is None:
        return scale / wanted
    theta = torch.as_tensor(neuron.threshold, dtype=torch.float64).to(scale)
    wanted = torch.maximum(wanted, RESOLUTION * scale / theta)
    return torch.maximum(scale / 2 ** wanted.log2().ceil(), theta / FINEST)


def _neuron(path: str, neuron: Any, unit: Tensor, bits: int | None) -> IntegerIntegrateFire:
    theta = torch.as_tensor(neuron.threshold, dtype=torch.float64)
    threshold = (theta / unit.double()).round()
    if isinstance(neuron.v_initial, Tensor) and neuron.v_initial.dim() > 0:
        raise ValueError(
            f"{path}: v(0) differs from neuron to neuron, and is rounded here for each channel alone; use another method"
        )
    first = (float(neuron.v_initial) * theta / unit.double()).round()
    try:
        return IntegerIntegrateFire(threshold, first, bits)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
