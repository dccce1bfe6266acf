"""Values of a graph during rewriting to normal form: factors, divisors of currents, and called modules."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from snnconv.analysis.fan_out import LOGITS
from snnconv.nn.graph.kinds import ADDITIONS, WEIGHTED
from snnconv.nn.graph.trace import path_of, trace
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.base import Threshold


@dataclass(frozen=True)
class Value:
    """An original value: `factor` (a number, or one for each channel) times the present value of `node`.

    `stride` and `zeros` are pending operations: selection of every n-th pixel, and channels of zeros before and after its own.
    """

    node: fx.Node
    factor: Threshold = 1.0
    stride: tuple[int, int] = (1, 1)
    zeros: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> torch.Size:
        """The shape of the value of `node`."""
        return self.node.meta["tensor_meta"].shape

    @property
    def waits(self) -> bool:
        """Whether operations are pending."""
        return self.stride != (1, 1) or self.zeros != (0, 0)


def site(node: fx.Node, module: Any) -> str:
    """The path and kind of an operation, for messages."""
    name = type(module).__name__ if module is not None else f"calls {getattr(node.target, '__name__', node.target)}"
    return f"{path_of(node)} ({name})"


def calls(node: fx.Node, targets: tuple) -> bool:
    """Whether `node` calls one of these functions or methods (not a module of the same name)."""
    return node.op in ("call_function", "call_method") and node.target in targets


def shaped(network: nn.Module, example: Tensor) -> fx.Graph:
    """The operations of a network with neurons; `meta["tensor_meta"]` describes their outputs for one step of `example`."""
    graph = trace(network, (OverTime,))
    for module in network.modules():
        if isinstance(module, OverTime):
            module.timesteps = 1
    with torch.no_grad():
        ShapeProp(fx.GraphModule(network, graph)).propagate(example)
    graph.owning_module = None  # modules are added to the network itself
    return graph


def sinks_of(graph: fx.Graph, modules: dict[str, Any]) -> dict[fx.Node, frozenset[str]]:
    """The neurons (and logits) that each node reaches without passing through weights or other neurons."""
    sinks: dict[fx.Node, frozenset[str]] = {}
    for node in reversed(graph.nodes):
        reached: set[str] = set()
        for user in node.users:
            module = module_of(user, modules)
            if user.op == "output":
                reached.add(LOGITS)
            elif isinstance(module, OverTime):
                reached.add(str(user.target))
            elif not isinstance(module, WEIGHTED):
                reached |= sinks[user]
        sinks[node] = frozenset(reached)
    return sinks


def divisors_of(
    thresholds: dict[str, Threshold], sinks: dict[fx.Node, frozenset[str]], modules: dict[str, Any]
) -> dict[str, Threshold]:
    """The divisor of the current of each neuron: θ, or 1 if it shares a current with a neuron of another θ."""
    divisors: dict[str, Threshold] = {**thresholds, LOGITS: 1.0}
    shared = [
        paths
        for node, paths in sinks.items()
        if isinstance(module_of(node, modules), WEIGHTED) or calls(node, ADDITIONS)
    ]
    changed = True
    while changed:
        changed = False
        for paths in shared:
            if len({_key(divisors[path]) for path in paths}) > 1:
                divisors |= dict.fromkeys(paths, 1.0)
                changed = True
    return divisors


def module_of(node: fx.Node, modules: dict[str, Any]) -> Any:
    """The module that `node` calls, or None."""
    return modules[str(node.target)] if node.op == "call_module" else None


def _key(value: Threshold) -> tuple[float, ...]:
    """A key that is equal for equal factors."""
    return tuple(value.tolist()) if isinstance(value, Tensor) else (float(value),)


def same(one: Threshold, other: Threshold) -> bool:
    """Whether two factors are equal."""
    return _key(one) == _key(other)


def step_of(part: slice) -> int | None:
    """n if a slice selects every n-th element, starting with the first; else None."""
    return (part.step or 1) if part.start in (None, 0) and part.stop is None and (part.step or 1) > 0 else None
