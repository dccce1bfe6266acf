"""Placement of operators, and of encoders for signed neurons, in a network before conversion."""

import copy
from collections import Counter

import torch
from torch import fx, nn

from snnconv.nn.graph.kinds import Kinds
from snnconv.nn.graph.names import numbered_name
from snnconv.nn.graph.rewrite import set_submodule
from snnconv.nn.graph.sites import OPERATORS
from snnconv.nn.graph.trace import trace
from snnconv.spiking.operators import choice
from snnconv.spiking.operators.base import Encoder, Operator, Site
from snnconv.spiking.operators.choice import MAX_POOLING, Choice
from snnconv.spiking.operators.signals import WEIGHTS, Signal, operated, walk


def place_operators(network: nn.Module, kinds: Kinds, choose: Choice = choice.auto) -> nn.Module:
    """A copy of `network` with a `Site` for every operator after an activation of `kinds`, or `network` itself if there is none.

    Max pooling next to an activation of `kinds` may be swapped with it (`_swap_pools`); activations are monotone, so the output of
    the network does not change.  Layers that are called several times, or for which `choose` returns None, are not changed.

    If `Encoder` is one of `kinds`, an encoder is inserted before weights that would receive an analog signal, so that all weights
    except those applied to the image receive spikes; this includes networks without activations.  ValueError if the forward pass
    cannot be traced.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    candidates: tuple[type[nn.Module], ...] = (*OPERATORS, *choice.EXTRA)
    operators = any(isinstance(module, candidates) and not isinstance(module, kinds) for module in network.modules())
    if not operators and Encoder not in kinds:
        return network
    original, network = network, copy.deepcopy(network)
    graph = trace(network, (*kinds, *choice.EXTRA))
    placement = _Placement(graph, dict(network.named_modules()), kinds, candidates, choose)
    changed = _swap_pools(graph, placement)
    placement.run()
    if not changed and not placement.sites and not placement.analog:
        return original
    if changed or placement.analog:
        meta = getattr(network, "meta", {})
        placement.encode(network)
        network = fx.GraphModule(network, graph, class_name=type(network).__name__)
        network.meta.update(meta)
    for path, chosen in placement.sites.items():
        set_submodule(network, path, Site(chosen))
    return network


class _Placement:
    """The operators of the network with this `graph` (`sites`, by path), and the signals to encode (`analog`)."""

    def __init__(
        self,
        graph: fx.Graph,
        modules: dict[str, nn.Module],
        kinds: tuple[type, ...],
        candidates: tuple[type, ...],
        choose: Choice,
    ) -> None:
        self.graph, self.modules, self.kinds = graph, modules, kinds
        self.candidates, self.choose, self.encodes = candidates, choose, Encoder in kinds
        self.graded = any(
            issubclass(kind, Encoder) for kind in kinds
        )  # spikes of several levels, which max pooling would mix
        self.uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
        self.sites: dict[str, Operator] = {}
        self.analog: dict[fx.Node, list[fx.Node]] = {}  # signal → the weight layers that receive it
        self.bent: set[fx.Node] = set()  # constant in time, but not a linear function of the image

    def run(self) -> None:
        """Visit every node."""
        walk(self.graph, self._visit, self.modules)

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that `node` calls."""
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def _visit(self, node: fx.Node, inputs: list[Signal]) -> Signal | None:
        module = self.module(node)
        if isinstance(module, self.kinds):
            return Signal.SUMS if self.graded else Signal.SPIKES
        if self.encodes and isinstance(module, WEIGHTS) and self._is_analog(node, inputs):
            self.analog.setdefault(node.all_input_nodes[0], []).append(node)
            return Signal.ANALOG
        operates = isinstance(module, self.candidates)
        if not inputs or max(inputs) is Signal.CONSTANT:
            if operates or not self.bent.isdisjoint(node.all_input_nodes):
                self.bent.add(node)
            return None
        if not operates or self.uses[node.target] > 1 or node.kwargs:
            return None
        chosen = self.choose(module, len(node.args), set(inputs) == {Signal.SPIKES})  # type: ignore[arg-type]
        if chosen is None:
            return None
        self.sites[str(node.target)] = chosen
        return operated(chosen, inputs)

    def _is_analog(self, node: fx.Node, inputs: list[Signal]) -> bool:
        """Whether `node` receives one signal that is analog, or constant but not a linear function of the image."""
        return len(inputs) == 1 and (Signal.ANALOG in inputs or not self.bent.isdisjoint(node.all_input_nodes))

    def encode(self, network: nn.Module) -> None:
        """Insert an `Encoder` for each analog signal, before the weights that receive it."""
        for source, users in self.analog.items():
            insert_encoder(network, self.graph, source, users, f"{users[0].target}_encoder", Encoder())


def insert_encoder(
    network: nn.Module, graph: fx.Graph, source: fx.Node, users: list[fx.Node], path: str, encoder: Encoder
) -> None:
    """Insert `encoder` between `source` and its `users`, at `path` of `network`, or at a numbered path if that exists."""
    path = numbered_name(path, {path for path, _ in network.named_modules()})
    set_submodule(network, path, encoder)
    axis = source.meta.get("batch_axis", 0)
    with graph.inserting_before(users[0]):
        front = graph.call_function(torch.movedim, (source, axis, 0)) if axis else source
        spikes = graph.call_module(path, (front,))
        encoded = graph.call_function(torch.movedim, (spikes, 0, axis)) if axis else spikes
    for node in (front, spikes, encoded):
        if node is not source:
            node.meta.update({key: users[0].meta[key] for key in ("nn_module_stack",) if key in users[0].meta})
    encoded.meta["batch_axis"] = axis
    for user in users:
        user.replace_input_with(source, encoded)


def _swap_pools(graph: fx.Graph, placement: _Placement) -> bool:
    """Swap max pooling with an adjacent activation; return True if `graph` has changed.

    Pooling after an activation of a constant current is moved before it: it is then computed once, and fewer neurons are needed.
    Pooling before an activation of a changing current is moved after it, where it counts spikes.
    """
    kinds = tuple(kind for kind in placement.kinds if not issubclass(kind, Encoder))
    changing: set[fx.Node] = set()
    swapped = False
    for node in list(graph.nodes):
        module = placement.module(node)
        varies = not changing.isdisjoint(node.all_input_nodes)
        if varies or isinstance(module, kinds):
            changing.add(node)
        first, second = (MAX_POOLING, kinds) if varies else (kinds, MAX_POOLING)
        user = next(iter(node.users)) if len(node.users) == 1 else node
        beside = placement.module(user)
        once = placement.uses[node.target] == placement.uses[user.target] == 1
        if once and isinstance(module, first) and isinstance(beside, second):
            user.replace_all_uses_with(node)
            user.args, node.args = node.args, (user,)
            user.append(node)
            swapped = True
    return swapped
