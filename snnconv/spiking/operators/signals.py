"""Kinds of signals in a network, and the share of a spiking network that is driven by spikes."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import torch
from spikingjelly.activation_based import functional
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from snnconv.nn.graph.kinds import WEIGHTED
from snnconv.nn.graph.trace import trace
from snnconv.spiking.network import OverTime
from snnconv.spiking.operators.base import Operator, OperatorOverTime


class Signal(IntEnum):
    """Kinds of values in a spiking network; an operation on several kinds has the later one in this order."""

    CONSTANT = 0  # the same in every step: computed from the image before the first neuron
    SPIKES = 1  # spikes of one amplitude per channel
    SUMS = 2  # sums, means or multiples of spikes: weights that receive them are still driven by spikes
    ANALOG = 3  # output of weights, or of an operator that computes in floating point


WEIGHTS = (*WEIGHTED, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Bilinear)
MOVES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ZeroPad2d,
         nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle)  # fmt: skip
MOVING_CALLS = {
    "cat", "concat", "flatten", "unflatten", "reshape", "view", "_unsafe_view", "permute", "transpose", "t", "movedim",
    "contiguous", "clone", "alias", "detach", "getitem", "chunk", "split", "split_with_sizes", "unbind", "squeeze", "unsqueeze",
    "slice", "select", "narrow", "index_select", "expand", "roll", "flip", "pad", "constant_pad_nd", "stack", "dropout",
}  # fmt: skip


def signal(node: fx.Node, module: nn.Module | None, inputs: list[Signal]) -> Signal:
    """The kind of output of `node` for `inputs`; `node` is neither a neuron nor an operator over time."""
    strongest = max(inputs, default=Signal.CONSTANT)
    if strongest is Signal.CONSTANT:
        return strongest
    if isinstance(module, WEIGHTS):
        return Signal.ANALOG
    name = str(getattr(node.target, "__name__", node.target)).partition(".")[0]
    moves = isinstance(module, MOVES) if node.op == "call_module" else name in MOVING_CALLS
    return strongest if moves and Signal.CONSTANT not in inputs else max(strongest, Signal.SUMS)


def operated(operator: Operator, inputs: list[Signal]) -> Signal:
    """The kind of output of `operator`: spikes if it emits spikes and receives only spikes, else analog."""
    return Signal.SPIKES if operator.emits_spikes and set(inputs) == {Signal.SPIKES} else Signal.ANALOG


def walk(
    graph: fx.Graph, visit: Callable[[fx.Node, list[Signal]], Signal | None], modules: dict[str, nn.Module]
) -> dict[fx.Node, Signal]:
    """The kind of signal at every node; `visit(node, inputs)` returns it for neurons and operators, and None for other nodes."""
    signals: dict[fx.Node, Signal] = {}
    for node in graph.nodes:
        inputs = [signals[source] for source in node.all_input_nodes if source.op != "get_attr"]
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        chosen = visit(node, inputs)
        signals[node] = signal(node, module, inputs) if chosen is None else chosen
    return signals


def signals_of(network: nn.Module) -> dict[fx.Node, Signal]:
    """The kind of signal at every node of a spiking network."""
    modules = dict(network.named_modules())

    def visit(node: fx.Node, inputs: list[Signal]) -> Signal | None:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, OverTime):
            return Signal.SUMS if getattr(module.neuron, "graded", False) else Signal.SPIKES
        return operated(module.operator, inputs) if isinstance(module, OperatorOverTime) else None

    return walk(trace(network, (OverTime,)), visit, modules)


def departures(network: nn.Module) -> dict[str, int | bool]:
    """`float_operators` and `analog_currents` of a spiking network, as defined by `Latency`."""
    modules, operators, analog = dict(network.named_modules()), 0, False
    signals = signals_of(network)
    for node, output in signals.items():
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        operators += isinstance(module, OperatorOverTime) and output is not Signal.SPIKES
        analog |= isinstance(module, WEIGHTS) and any(signals[n] is Signal.ANALOG for n in node.all_input_nodes)
    return {"float_operators": operators, "analog_currents": analog}


@torch.no_grad()
def spike_driven(network: nn.Module, images: Tensor) -> float:
    """Share of the multiply-accumulates in each step that spikes reduce to accumulates; constant inputs are not counted.

    The rest are weights that receive analog values, and products of two signals (attention).  The state of `network` is reset.
    """
    signals, driven, total = signals_of(network), 0, 0
    graph = next(iter(signals)).graph

    class Counter(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            nonlocal driven, total
            with FlopCounterMode(display=False) as counter:
                output = super().run_node(n)
            inputs = [signals[source] for source in n.all_input_nodes if source.op != "get_attr"]
            if inputs and max(inputs) is not Signal.CONSTANT:
                total += counter.get_total_flops()
                weights = n.op == "call_module" and isinstance(self.fetch_attr(str(n.target)), WEIGHTS)
                driven += counter.get_total_flops() if weights and Signal.ANALOG not in inputs else 0
            return output

    for clock in network.modules():
        if isinstance(clock, OverTime | OperatorOverTime):
            clock.timesteps = 1
    functional.reset_net(network)
    functional.set_step_mode(network, "m")
    Counter(fx.GraphModule(network, graph)).run(images)
    functional.reset_net(network)
    return driven / total if total else 1.0
