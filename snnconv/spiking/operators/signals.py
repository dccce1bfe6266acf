"""Kinds of signals in a network, and what follows from them: how much of a spiking network is not driven by spikes."""

from collections.abc import Callable
from enum import IntEnum

from torch import fx, nn

from snnconv.nn.graph.kinds import WEIGHTED
from snnconv.nn.graph.trace import trace
from snnconv.spiking.network import OverTime
from snnconv.spiking.operators.base import Operator, OperatorOverTime


class Signal(IntEnum):
    """Kinds of values in a spiking network; where two meet, the later one in this order holds."""

    CONSTANT = 0  # the same in every step: computed from the image before the first neuron
    SPIKES = 1  # spikes of one amplitude a channel
    SUMS = 2  # sums, means or multiples of spikes: weights that receive them are still driven by spikes
    ANALOG = 3  # behind weights, or behind an operator that computes in floating point


WEIGHTS = (*WEIGHTED, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Bilinear)
MOVES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ZeroPad2d,
         nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle)  # fmt: skip
MOVING_CALLS = {
    "cat", "concat", "flatten", "unflatten", "reshape", "view", "_unsafe_view", "permute", "transpose", "t", "movedim",
    "contiguous", "clone", "alias", "detach", "getitem", "chunk", "split", "split_with_sizes", "unbind", "squeeze", "unsqueeze",
    "slice", "select", "narrow", "index_select", "expand", "roll", "flip", "pad", "constant_pad_nd", "stack", "dropout",
}  # fmt: skip


def signal(node: fx.Node, module: nn.Module | None, inputs: list[Signal]) -> Signal:
    """The output of `node` from its inputs; `node` is no neuron, and no operator that computes over time."""
    strongest = max(inputs, default=Signal.CONSTANT)
    if strongest is Signal.CONSTANT:
        return strongest
    if isinstance(module, WEIGHTS):
        return Signal.ANALOG
    name = str(getattr(node.target, "__name__", node.target)).partition(".")[0]
    moves = isinstance(module, MOVES) if node.op == "call_module" else name in MOVING_CALLS
    return strongest if moves and Signal.CONSTANT not in inputs else max(strongest, Signal.SUMS)


def operated(operator: Operator, inputs: list[Signal]) -> Signal:
    """The output of `operator`: spikes if it emits those and receives nothing else."""
    return Signal.SPIKES if operator.emits_spikes and set(inputs) == {Signal.SPIKES} else Signal.ANALOG


def walk(
    graph: fx.Graph, visit: Callable[[fx.Node, list[Signal]], Signal | None], modules: dict[str, nn.Module]
) -> dict[fx.Node, Signal]:
    """The signal at every node; `visit(node, inputs)` says what neurons and operators put out, and None of all others."""
    signals: dict[fx.Node, Signal] = {}
    for node in graph.nodes:
        inputs = [signals[source] for source in node.all_input_nodes if source.op != "get_attr"]
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        chosen = visit(node, inputs)
        signals[node] = signal(node, module, inputs) if chosen is None else chosen
    return signals


def departures(network: nn.Module) -> dict[str, int | bool]:
    """`float_operators` and `analog_currents` of a spiking network, as `Latency` declares them."""
    modules, operators, analog = dict(network.named_modules()), 0, False

    def visit(node: fx.Node, inputs: list[Signal]) -> Signal | None:
        nonlocal operators, analog
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, OverTime):
            return Signal.SUMS if getattr(module.neuron, "graded", False) else Signal.SPIKES
        if isinstance(module, OperatorOverTime):
            output = operated(module.operator, inputs)
            operators += output is not Signal.SPIKES
            return output
        analog |= isinstance(module, WEIGHTS) and Signal.ANALOG in inputs
        return None

    walk(trace(network, (OverTime,)), visit, modules)
    return {"float_operators": operators, "analog_currents": analog}
