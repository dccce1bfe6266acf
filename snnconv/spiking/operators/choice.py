"""The choice of an operator for each non-linear layer, and the copy of a network in which the operators are placed.

A choice is a function (layer, number of its signals, whether they are spikes) → operator, or None to refuse the layer; each yaml in
conf/operators/ is one.
"""

import copy
from collections import Counter
from collections.abc import Callable

from torch import fx, nn

from snnconv.nn.graph.kinds import Kinds
from snnconv.nn.graph.rewrite import set_submodule
from snnconv.nn.graph.sites import OPERATORS
from snnconv.nn.graph.trace import trace
from snnconv.spiking.operators.base import Operator, Site
from snnconv.spiking.operators.max_count import MaxCount
from snnconv.spiking.operators.running_mean import RunningMean
from snnconv.spiking.operators.signals import Signal, operated, walk
from snnconv.spiking.operators.winner import WITH_INDICES, Winner

Choice = Callable[[nn.Module, int, bool], Operator | None]
MAX_POOLING = tuple(WITH_INDICES)
EXTRA: list[type[nn.Module]] = []  # classes of users


def operator(kind: type[nn.Module]) -> type[nn.Module]:
    """Class decorator: networks that call a module of this class are converted, with the module as the F of an operator.

    Its `forward` must treat every sample of the batch alone and hold no state.
    """
    EXTRA.append(kind)
    return kind


def auto(layer: nn.Module, signals: int, spikes: bool) -> Operator | None:
    """Max pooling of spike counts where pooling receives spikes (exact and binary), else a running mean (exact, analog)."""
    return MaxCount(layer) if isinstance(layer, MAX_POOLING) else RunningMean(layer, signals)


def running_mean(layer: nn.Module, signals: int, spikes: bool) -> Operator | None:
    """A running mean in every place."""
    return RunningMean(layer, signals)


def winner(layer: nn.Module, signals: int, spikes: bool) -> Operator | None:
    """Max pooling of spikes passes those of its leading input; a running mean in every other place."""
    return Winner(layer) if spikes and isinstance(layer, MAX_POOLING) else RunningMean(layer, signals)


def none(layer: nn.Module, signals: int, spikes: bool) -> Operator | None:
    """No operator: non-linear layers behind the first neuron are refused."""
    return None


def place_operators(network: nn.Module, kinds: Kinds, choose: Choice = auto) -> nn.Module:
    """A copy of `network` with a `Site` for every operator behind an activation of `kinds`; `network` itself if there is none.

    Max pooling that a single activation of `kinds` feeds, or that feeds only one, changes places with it where that helps
    (`_swap_pools`): the activations do not decrease, so the network computes the same.  Layers that are called several times, or
    that `choose` refuses, stay as they are.  ValueError if the forward pass cannot be followed.
    """
    candidates: tuple[type[nn.Module], ...] = (*OPERATORS, *EXTRA)
    if not any(isinstance(module, candidates) and not isinstance(module, kinds) for module in network.modules()):
        return network
    network = copy.deepcopy(network)
    modules, graph = dict(network.named_modules()), trace(network, (*_tuple(kinds), *EXTRA))
    uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
    sites: dict[str, Operator] = {}

    def visit(node: fx.Node, inputs: list[Signal]) -> Signal | None:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, kinds):
            return Signal.SPIKES
        if not isinstance(module, candidates) or max(inputs) is Signal.CONSTANT or uses[node.target] > 1 or node.kwargs:
            return None
        chosen = choose(module, len(node.args), set(inputs) == {Signal.SPIKES})
        if chosen is None:
            return None
        sites[str(node.target)] = chosen
        return operated(chosen, inputs)

    swapped = _swap_pools(graph, modules, _tuple(kinds), uses)
    if swapped:
        meta = getattr(network, "meta", {})
        network = fx.GraphModule(network, graph, class_name=type(network).__name__)
        network.meta.update(meta)
    walk(graph, visit, modules)
    for path, chosen in sites.items():
        set_submodule(network, path, Site(chosen))
    return network


def _swap_pools(graph: fx.Graph, modules: dict[str, nn.Module], kinds: tuple[type, ...], uses: Counter) -> bool:
    """Let max pooling change places with the activation beside it: True if `graph` has changed.

    Behind an activation of a constant current it moves before it, and is computed once, on fewer neurons.  Before an activation
    of a current that changes it moves behind it, where it counts spikes.
    """
    changing: set[fx.Node] = set()
    swapped = False
    for node in list(graph.nodes):
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        varies = not changing.isdisjoint(node.all_input_nodes)
        if varies or isinstance(module, kinds):
            changing.add(node)
        first, second = (MAX_POOLING, kinds) if varies else (kinds, MAX_POOLING)
        user = next(iter(node.users)) if len(node.users) == 1 else node
        beside = modules.get(str(user.target)) if user.op == "call_module" else None
        once = uses[node.target] == uses[user.target] == 1
        if once and isinstance(module, first) and isinstance(beside, second):
            user.replace_all_uses_with(node)
            user.args, node.args = node.args, (user,)
            user.append(node)
            swapped = True
    return swapped


def _tuple(kinds: Kinds) -> tuple[type, ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)
