"""Normal form of a spiking network: the few operations that exchange formats have, spikes of 1, and thresholds of 1 where possible.

Left are convolutions, linear layers, average pooling, flattening, additions and integrate-and-fire neurons.  Each value of the new
network is that of the old one divided by a known factor, and factors move into weights: a neuron's θ multiplies the weights that it
feeds, and divides those that feed it.  Where spikes meet an addition without weights, a 1×1 convolution (or a diagonal linear
layer) of their own carries the factor; it also does what a shortcut without weights does: every second pixel, channels of zeros.
"""

import copy
import operator
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from snnconv.analysis.fan_out import LOGITS
from snnconv.nn.graph.kinds import ADDITIONS, PASSING, RESHAPING, WEIGHTED
from snnconv.nn.graph.names import free_name
from snnconv.nn.graph.pooling import average_pool
from snnconv.nn.graph.rewrite import set_submodule
from snnconv.nn.graph.trace import path_of, trace
from snnconv.nn.quantization import over_outputs
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.base import Threshold
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.simulation import Simulation


@dataclass
class NormalForm:
    """`model` simulates it; by path, `thresholds` are those before, and `scaled` names the neurons whose θ is 1 now."""

    model: SpikingModel
    thresholds: dict[str, Threshold]
    scaled: list[str]
    unit: bool  # was it asked for thresholds of 1?

    def graph(self, example: Tensor) -> fx.Graph:
        """Its operations, with the shapes that they have for `example` [N, …]."""
        return shaped(self.model.network, example)


def site(node: fx.Node, module: Any) -> str:
    """The path and the kind of an operation, for messages."""
    name = type(module).__name__ if module is not None else f"calls {getattr(node.target, '__name__', node.target)}"
    return f"{path_of(node)} ({name})"


def calls(node: fx.Node, targets: tuple) -> bool:
    """Whether `node` calls one of these functions or methods.  (A module may have the name of a method.)"""
    return node.op in ("call_function", "call_method") and node.target in targets


def shaped(network: nn.Module, example: Tensor) -> fx.Graph:
    """The operations of a network with neurons, and in `meta["tensor_meta"]` what they put out for `example`, one step."""
    graph = trace(network, (OverTime,))
    for module in network.modules():
        if isinstance(module, OverTime):
            module.timesteps = 1
    with torch.no_grad():
        ShapeProp(fx.GraphModule(network, graph)).propagate(example)
    graph.owning_module = None  # modules are added to the network itself
    return graph


@torch.no_grad()
def normal_form(snn: SpikingModel, example: Tensor, unit: bool = True) -> NormalForm:
    """`snn`, a network of plain integrate-and-fire neurons, in normal form; `example` is an image or more, [N, …].

    Not `unit`: thresholds stay as they are, and only what spikes are multiplied by moves into weights.  Weights are computed in
    float64 and rounded once, to float32; factors that are powers of two change no spike.

    ValueError naming the layer: for other neurons, and for operations that do not belong to the form.
    """
    for path, neuron in snn.neurons().items():
        if type(neuron) is not IntegrateFire or snn.for_timesteps or snn.timing.presented or snn.timing.discard:
            raise ValueError(f"{path} ({type(neuron).__name__}): only plain integrate-and-fire neurons can be exported "
                             "(method=qcfs, or a rule for thresholds: max_norm, mse, …)")  # fmt: skip
    form = _Rewriting(copy.deepcopy((snn.exact or snn).network).float().cpu(), example[:1].float().cpu(), unit)
    for node in reversed(list(form.graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            form.graph.erase_node(node)
    network = fx.GraphModule(form.network, form.graph)
    settings = Simulation(schedule="step", fold_threshold=False, channels_last=False)
    return NormalForm(SpikingModel(network, snn.latency, simulation=settings), form.thresholds, form.scaled, unit)


@dataclass(frozen=True)
class _Value:
    """The value of a node: `factor` (a number, or one for each channel) times the value that `node` has now.

    With `stride` or `zeros` it still has to be thinned out and given channels of zeros before and behind its own.
    """

    node: fx.Node
    factor: Threshold = 1.0
    stride: tuple[int, int] = (1, 1)
    zeros: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> torch.Size:
        return self.node.meta["tensor_meta"].shape

    @property
    def waits(self) -> bool:
        return self.stride != (1, 1) or self.zeros != (0, 0)


class _Rewriting:
    """Follows the graph of `network` from the image on and rewrites it."""

    def __init__(self, network: nn.Module, example: Tensor, unit: bool) -> None:
        self.network, self.graph = network, shaped(network, example)
        self.modules: dict[str, Any] = dict(network.named_modules())
        self.uses = Counter(node.target for node in self.graph.nodes if node.op == "call_module")
        neurons: dict[str, Any] = {path: m.neuron for path, m in self.modules.items() if isinstance(m, OverTime)}
        self.thresholds: dict[str, Threshold] = {path: neuron.threshold for path, neuron in neurons.items()}
        self.sinks = self._sinks()
        self.divisors = self._divisors() if unit else dict.fromkeys([*neurons, LOGITS], 1.0)
        self.scaled = [path for path, theta in self.thresholds.items() if _same(self.divisors[path], theta)]
        self.values: dict[fx.Node, _Value] = {}
        for node in list(self.graph.nodes):
            if node.op == "placeholder" or "tensor_meta" in node.meta:
                self.values[node] = self._value(node)

    def module(self, node: fx.Node) -> Any:
        """The module that `node` calls, None if it calls none."""
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _sinks(self) -> dict[fx.Node, frozenset[str]]:
        """The neurons (and the logits) that each node reaches without passing weights or other neurons."""
        sinks: dict[fx.Node, frozenset[str]] = {}
        for node in reversed(self.graph.nodes):
            reached: set[str] = set()
            for user in node.users:
                if user.op == "output":
                    reached.add(LOGITS)
                elif isinstance(self.module(user), OverTime):
                    reached.add(str(user.target))
                elif not isinstance(self.module(user), WEIGHTED):
                    reached |= sinks[user]
            sinks[node] = frozenset(reached)
        return sinks

    def _divisors(self) -> dict[str, Threshold]:
        """The divisor of the current of each neuron: θ, or 1 where it shares a current with a neuron of another θ."""
        divisors: dict[str, Threshold] = {**self.thresholds, LOGITS: 1.0}
        shared = [self.sinks[node] for node in self.graph.nodes
                  if isinstance(self.module(node), WEIGHTED) or calls(node, ADDITIONS)]  # fmt: skip
        changed = True
        while changed:
            changed = False
            for paths in shared:
                if len({_key(divisors[path]) for path in paths}) > 1:
                    divisors |= dict.fromkeys(paths, 1.0)
                    changed = True
        return divisors

    def _value(self, node: fx.Node) -> _Value:
        """The value that takes the place of `node`."""
        module = self.module(node)
        if node.op == "placeholder":
            return _Value(node)
        if node.op == "output":
            node.args = (self._meet(self.values[node.all_input_nodes[0]], 1.0, node),)
            return _Value(node)
        inputs = [self.values[source] for source in node.all_input_nodes if source in self.values]
        if isinstance(module, OverTime):
            return self._neuron(node, module, inputs[0])
        if isinstance(module, nn.Conv2d | nn.Linear):
            return self._weighted(node, module, self._settled(inputs[0], node))
        if calls(node, ADDITIONS) and len(inputs) == 2 and not node.kwargs:
            return self._sum(node, inputs)
        if isinstance(module, PASSING) or calls(node, (F.dropout, "contiguous")):
            return inputs[0]
        if len(inputs) == 1:
            rewritten = self._pooled(node, module, inputs[0]) or self._moved(node, module, inputs[0])
            if rewritten is not None:
                return rewritten
        raise ValueError(f"{site(node, module)}: has no counterpart in the exported form, which knows Conv2d, Linear, average "
                         "pooling, Flatten, additions, and shortcuts of every n-th pixel and channels of zeros")  # fmt: skip

    def _neuron(self, node: fx.Node, clock: OverTime, current: _Value) -> _Value:
        path, neuron = str(node.target), clock.neuron
        divisor, amplitude = self.divisors[path], neuron.amplitude
        node.replace_input_with(node.all_input_nodes[0], self._meet(current, divisor, node))
        clock.neuron = IntegrateFire(1.0 if path in self.scaled else neuron.threshold, neuron.v_initial)  # type: ignore[arg-type]
        clock.neuron.amplitude = 1.0
        return _Value(node, amplitude)  # type: ignore[arg-type]

    def _weighted(self, node: fx.Node, layer: Any, value: _Value) -> _Value:
        path = str(node.target)
        if self.uses[node.target] > 1:
            raise ValueError(f"{path}: used {self.uses[node.target]} times, but its weights depend on where it stands")
        if isinstance(layer, nn.Linear) and len(value.shape) != 2:
            raise ValueError(f"{path} (Linear): receives {list(value.shape[1:])}; flatten it first")
        if isinstance(layer, nn.Conv2d) and (layer.groups != 1 or layer.padding_mode != "zeros"):
            raise ValueError(f"{path} (Conv2d): groups={layer.groups}, padding_mode={layer.padding_mode!r}; only convolutions of "
                             "one group with zero padding can be exported")  # fmt: skip
        divisor = next((self.divisors[sink] for sink in self.sinks[node]), 1.0)
        if isinstance(divisor, Tensor) and len(divisor) != len(layer.weight):  # of a neuron behind a flattening
            divisor = 1.0
        by_input, by_output = (torch.as_tensor(x, dtype=torch.float64) for x in (value.factor, divisor))
        weight, bias = layer.weight.double(), layer.bias
        weight = weight * (by_input.view(1, -1, *[1] * (weight.dim() - 2)) if by_input.dim() else by_input)
        weight = weight / (over_outputs(by_output, weight) if by_output.dim() else by_output)
        bias = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.double() / by_output
        layer.weight, layer.bias = nn.Parameter(weight.float().contiguous()), nn.Parameter(bias.float())
        node.replace_input_with(node.all_input_nodes[0], value.node)
        return _Value(node, divisor)

    def _sum(self, node: fx.Node, inputs: list[_Value]) -> _Value:
        """Both operands divided by what the sum has to be divided by."""
        factors = [value.factor for value in inputs]
        common = factors[0] if _same(*factors) and not any(value.waits for value in inputs) else 1.0
        target = next((self.divisors[sink] for sink in self.sinks[node]), common)
        first, second = (self._meet(value, target, node) for value in inputs)
        if first is second:
            raise ValueError(f"{path_of(node)}: adds a value to itself, and edges of a graph count once; multiply it")
        return _Value(self._instead(node, lambda: self.graph.call_function(ADDITIONS[0], (first, second))), target)

    def _pooled(self, node: fx.Node, module: Any, value: _Value) -> _Value | None:
        """Average pooling as a module, of the whole image or over windows that count their padding."""
        pool = average_pool(node, module) if len(value.shape) == 4 else None
        if pool is None:
            return None
        value = self._settled(value, node)
        if not pool.plain:
            raise ValueError(f"{site(node, module)}: only plain or global average pooling can be exported")
        return replace(value, node=self._call(node, nn.AvgPool2d(*pool.window(value.shape[-2:])), value.node))

    def _moved(self, node: fx.Node, module: Any, value: _Value) -> _Value | None:
        """Flattening; every n-th pixel; channels of zeros."""
        shape, before = node.meta["tensor_meta"].shape, value.shape
        if isinstance(module, nn.Flatten) or calls(node, RESHAPING):
            value = self._settled(value, node)
            if shape == before:
                return value
            if len(shape) != 2 or shape[0] != before[0]:
                return None
            factor = value.factor
            if isinstance(factor, Tensor):
                factor = factor.repeat_interleave(shape[1] // len(factor))
            return _Value(self._call(node, nn.Flatten(), value.node), factor)
        if len(before) != 4:
            return None
        if node.op == "call_function" and node.target is F.pad and not value.zeros[0] and not value.zeros[1]:
            widths: Any
            widths, *rest = (*node.args[1:], *node.kwargs.values())
            plain = all(setting in ("constant", None, 0) for setting in rest)
            if plain and len(widths) == 6 and not any(widths[:4]) and min(widths) >= 0:
                return replace(value, zeros=tuple(widths[4:]))
        index = node.args[1] if node.target is operator.getitem else None
        if isinstance(index, tuple) and not value.waits and all(isinstance(part, slice) for part in index):
            steps: Any = [_step(part) for part in index] + [1] * (4 - len(index))
            if None not in steps and steps[:2] == [1, 1]:
                return replace(value, stride=(steps[2], steps[3]))
        return None

    def _settled(self, value: _Value, node: fx.Node) -> _Value:
        """`value` as it is before weights, pooling and flattening: nothing waits any more."""
        return _Value(self._meet(value, 1.0, node)) if value.waits else value

    def _meet(self, value: _Value, target: Threshold, node: fx.Node) -> fx.Node:
        """The node whose value is `value` divided by `target`: its own node, or a scaling layer between it and `node`."""
        if not value.waits and _same(value.factor, target):
            return value.node
        (before, behind), channels = value.zeros, value.shape[1]
        matrix = torch.zeros(before + channels + behind, channels, dtype=torch.float64)
        matrix[before : before + channels] = torch.diag(
            torch.as_tensor(value.factor, dtype=torch.float64).expand(channels)
        )
        matrix /= torch.as_tensor(target, dtype=torch.float64).expand(len(matrix)).unsqueeze(1)
        layer: Any
        if len(value.shape) == 2:
            layer = nn.Linear(channels, len(matrix))
        elif len(value.shape) == 4:
            layer, matrix = nn.Conv2d(channels, len(matrix), 1, value.stride), matrix[:, :, None, None]
        else:
            raise ValueError(f"{path_of(node)}: receives spikes of θ = {value.factor} without weights, in {list(value.shape[1:])}; "
                             "only [C] and [C, H, W] can be scaled")  # fmt: skip
        layer.weight, layer.bias = nn.Parameter(matrix.float()), nn.Parameter(torch.zeros(len(matrix)))
        with self.graph.inserting_before(node):
            scaled = self.graph.call_module(self._add(f"{path_of(node)}.shortcut", layer), (value.node,))
        rows = [(size - 1) // step + 1 for size, step in zip(value.shape[2:], value.stride, strict=False)]
        scaled.meta["tensor_meta"] = value.node.meta["tensor_meta"]._replace(
            shape=torch.Size([value.shape[0], len(matrix), *rows])
        )
        return scaled

    def _call(self, node: fx.Node, module: nn.Module, source: fx.Node) -> fx.Node:
        """`module` on `source`, in the place of `node`."""
        path = str(node.target) if node.op == "call_module" else f"{path_of(node)}.{node.name}"
        if node.op == "call_module" and self.uses[node.target] == 1:
            set_submodule(self.network, path, module)
            self.modules[path] = module
            return self._instead(node, lambda: self.graph.call_module(path, (source,)))
        return self._instead(node, lambda: self.graph.call_module(self._add(path, module), (source,)))

    def _instead(self, node: fx.Node, make: Any) -> fx.Node:
        """A node in the place of `node`; later ones are rewired as they are reached."""
        with self.graph.inserting_before(node):
            replacement = make()
        replacement.meta = {**node.meta}
        return replacement

    def _add(self, path: str, module: nn.Module) -> str:
        """Make `module` a part of the network, at the top, under a name that is free."""
        name = free_name(path.removeprefix("the network itself.").replace(".", "_"), self.modules)
        set_submodule(self.network, name, module)
        self.modules[name] = module
        return name


def _key(value: Threshold) -> tuple[float, ...]:
    """Equal for equal factors."""
    return tuple(value.tolist()) if isinstance(value, Tensor) else (float(value),)


def _same(one: Threshold, other: Threshold) -> bool:
    return _key(one) == _key(other)


def _step(part: slice) -> int | None:
    """n of a slice that takes every n-th element from the first on; None of any other."""
    return (part.step or 1) if part.start in (None, 0) and part.stop is None and (part.step or 1) > 0 else None
