"""Rewriting of a graph into normal form."""

import operator
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from snnconv.analysis.fan_out import LOGITS
from snnconv.hardware.export.dense_kernels import dense_square
from snnconv.hardware.export.normal_values import (
    Value,
    calls,
    divisors_of,
    module_of,
    same,
    shaped,
    sinks_of,
    site,
    step_of,
)
from snnconv.nn.graph.kinds import ADDITIONS, PASSING, RESHAPING
from snnconv.nn.graph.names import free_name
from snnconv.nn.graph.pooling import average_pool
from snnconv.nn.graph.rewrite import set_submodule
from snnconv.nn.graph.trace import path_of
from snnconv.nn.quantization import over_outputs
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.base import Threshold
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


class Rewriting:
    """Rewrites the graph of `network`, from the image to the logits."""

    def __init__(self, network: nn.Module, example: Tensor, unit: bool) -> None:
        self.network, self.graph = network, shaped(network, example)
        self.modules: dict[str, Any] = dict(network.named_modules())
        self.uses = Counter(node.target for node in self.graph.nodes if node.op == "call_module")
        neurons: dict[str, Any] = {path: m.neuron for path, m in self.modules.items() if isinstance(m, OverTime)}
        self.thresholds: dict[str, Threshold] = {path: neuron.threshold for path, neuron in neurons.items()}
        self.sinks = sinks_of(self.graph, self.modules)
        self.divisors = (
            divisors_of(self.thresholds, self.sinks, self.modules) if unit else dict.fromkeys([*neurons, LOGITS], 1.0)
        )
        self.scaled = [path for path, theta in self.thresholds.items() if same(self.divisors[path], theta)]
        self.values: dict[fx.Node, Value] = {}
        for node in list(self.graph.nodes):
            if node.op == "placeholder" or "tensor_meta" in node.meta:
                self.values[node] = self._value(node)

    def _value(self, node: fx.Node) -> Value:
        """The value that replaces the value of `node`."""
        module = module_of(node, self.modules)
        if node.op == "placeholder":
            return Value(node)
        if node.op == "output":
            node.args = (self._meet(self.values[node.all_input_nodes[0]], 1.0, node),)
            return Value(node)
        inputs = [self.values[source] for source in node.all_input_nodes if source in self.values]
        if isinstance(module, OverTime):
            return self._neuron(node, module, inputs[0])
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            return self._weighted(node, module, self._settled(inputs[0], node))
        if calls(node, ADDITIONS) and len(inputs) == 2 and not node.kwargs:
            return self._sum(node, inputs)
        if isinstance(module, PASSING) or calls(node, (F.dropout, "contiguous")):
            return inputs[0]
        if len(inputs) == 1:
            rewritten = self._pooled(node, module, inputs[0]) or self._moved(node, module, inputs[0])
            if rewritten is not None:
                return rewritten
        raise ValueError(f"{site(node, module)}: cannot be exported; supported are Conv1d, Conv2d, Linear, average pooling, "
                         "Flatten, sums, and shortcuts with every n-th pixel or channels of zeros")  # fmt: skip

    def _neuron(self, node: fx.Node, clock: OverTime, current: Value) -> Value:
        path, neuron = str(node.target), clock.neuron
        divisor, amplitude = self.divisors[path], neuron.amplitude
        node.replace_input_with(node.all_input_nodes[0], self._meet(current, divisor, node))
        clock.neuron = IntegrateFire(1.0 if path in self.scaled else neuron.threshold, neuron.v_initial)  # type: ignore[arg-type]
        clock.neuron.amplitude = 1.0
        return Value(node, amplitude)  # type: ignore[arg-type]

    def _weighted(self, node: fx.Node, layer: Any, value: Value) -> Value:
        path = str(node.target)
        if self.uses[node.target] > 1:
            raise ValueError(f"{path}: used {self.uses[node.target]} times, but each use would need different weights")
        if isinstance(layer, nn.Linear) and len(value.shape) != 2:
            raise ValueError(f"{path} (Linear): receives {list(value.shape[1:])}; flatten it first")
        if not isinstance(layer, nn.Linear):
            dense_square(path, layer)
        divisor = next((self.divisors[sink] for sink in self.sinks[node]), 1.0)
        if isinstance(divisor, Tensor) and len(divisor) != len(layer.weight):  # of a neuron after a flattening
            divisor = 1.0
        by_input, by_output = (torch.as_tensor(x, dtype=torch.float64) for x in (value.factor, divisor))
        weight, bias = layer.weight.double(), layer.bias
        weight = weight * (by_input.view(1, -1, *[1] * (weight.dim() - 2)) if by_input.dim() else by_input)
        weight = weight / (over_outputs(by_output, weight) if by_output.dim() else by_output)
        bias = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.double() / by_output
        layer.weight, layer.bias = nn.Parameter(weight.float().contiguous()), nn.Parameter(bias.float())
        node.replace_input_with(node.all_input_nodes[0], value.node)
        return Value(node, divisor)

    def _sum(self, node: fx.Node, inputs: list[Value]) -> Value:
        """The sum of both operands, each divided by the divisor of the sum."""
        factors = [value.factor for value in inputs]
        common = factors[0] if same(*factors) and not any(value.waits for value in inputs) else 1.0
        target = next((self.divisors[sink] for sink in self.sinks[node]), common)
        first, second = (self._meet(value, target, node) for value in inputs)
        if first is second:
            raise ValueError(
                f"{path_of(node)}: adds a value to itself, but an edge of a graph counts only once; multiply it by 2"
            )
        return Value(self._instead(node, lambda: self.graph.call_function(ADDITIONS[0], (first, second))), target)

    def _pooled(self, node: fx.Node, module: Any, value: Value) -> Value | None:
        """Average pooling as a module, over the whole image or over windows that include their padding."""
        pool = average_pool(node, module) if len(value.shape) == 4 else None
        if pool is None:
            return None
        value = self._settled(value, node)
        if not pool.plain:
            raise ValueError(f"{site(node, module)}: only plain or global average pooling can be exported")
        return replace(value, node=self._call(node, nn.AvgPool2d(*pool.window(value.shape[-2:])), value.node))

    def _moved(self, node: fx.Node, module: Any, value: Value) -> Value | None:
        """The value after flattening, selecting every n-th pixel, or adding channels of zeros; None for other operations."""
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
            return Value(self._call(node, nn.Flatten(), value.node), factor)
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
            steps: Any = [step_of(part) for part in index] + [1] * (4 - len(index))
            if None not in steps and steps[:2] == [1, 1]:
                return replace(value, stride=(steps[2], steps[3]))
        return None

    def _settled(self, value: Value, node: fx.Node) -> Value:
        """`value` with pending shortcuts applied, as needed before weights, pooling and flattening."""
        return Value(self._meet(value, 1.0, node)) if value.waits else value

    def _meet(self, value: Value, target: Threshold, node: fx.Node) -> fx.Node:
        """The node whose value is `value` divided by `target`: its own node, or a new scaling layer before `node`."""
        if not value.waits and same(value.factor, target):
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
        elif len(value.shape) == 3:
            layer, matrix = nn.Conv1d(channels, len(matrix), 1), matrix[:, :, None]
        elif len(value.shape) == 4:
            layer, matrix = nn.Conv2d(channels, len(matrix), 1, value.stride), matrix[:, :, None, None]
        else:
            raise ValueError(f"{path_of(node)}: receives spikes of θ = {value.factor} without weights, of shape "
                             f"{list(value.shape[1:])}; only [C], [C, L] and [C, H, W] can be scaled")  # fmt: skip
        layer.weight, layer.bias = nn.Parameter(matrix.float()), nn.Parameter(torch.zeros(len(matrix)))
        with self.graph.inserting_before(node):
            scaled = self.graph.call_module(self._add(f"{path_of(node)}.shortcut", layer), (value.node,))
        rows = [(size - 1) // step + 1 for size, step in zip(value.shape[2:], value.stride, strict=False)]
        scaled.meta["tensor_meta"] = value.node.meta["tensor_meta"]._replace(
            shape=torch.Size([value.shape[0], len(matrix), *rows])
        )
        return scaled

    def _call(self, node: fx.Node, module: nn.Module, source: fx.Node) -> fx.Node:
        """Replace `node` by a call of `module` with `source`."""
        path = str(node.target) if node.op == "call_module" else f"{path_of(node)}.{node.name}"
        if node.op == "call_module" and self.uses[node.target] == 1:
            set_submodule(self.network, path, module)
            self.modules[path] = module
            return self._instead(node, lambda: self.graph.call_module(path, (source,)))
        return self._instead(node, lambda: self.graph.call_module(self._add(path, module), (source,)))

    def _instead(self, node: fx.Node, make: Any) -> fx.Node:
        """A new node before `node`, which replaces it when later nodes are rewritten."""
        with self.graph.inserting_before(node):
            replacement = make()
        replacement.meta = {**node.meta}
        return replacement

    def _add(self, path: str, module: nn.Module) -> str:
        """Add `module` to the network, at the top level, under an unused name, and return the name."""
        name = free_name(path.removeprefix("the network itself.").replace(".", "_"), self.modules)
        set_submodule(self.network, name, module)
        self.modules[name] = module
        return name
