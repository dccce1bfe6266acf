"""Encoders behind layer norms, GELUs and attention, where SpikingJelly's STATransformerRecipe has them."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from snnconv.nn.graph.kinds import Kinds
from snnconv.nn.graph.rewrite import set_submodule
from snnconv.nn.graph.sites import Attention
from snnconv.nn.graph.trace import trace
from snnconv.spiking.operators.base import Encoder
from snnconv.spiking.operators.choice import Choice, auto
from snnconv.spiking.operators.placement import insert_encoder, place_operators
from snnconv.spiking.operators.signals import MOVES, MOVING_CALLS


class Encoded(Encoder):
    """An encoder of an output; weights that receive anything else receive analog values."""


def encode_outputs(ann: nn.Module, kinds: Kinds = Encoder, operators: Choice = auto) -> nn.Module:
    """A copy of `ann` with operators, and an `Encoded` behind every layer norm, GELU and projection of attention.

    ReLUs, which SpikingJelly's recipe refuses, are operators as well.

    The signature is that of `place_operators`.
    """
    network, meta, graph = copy.deepcopy(ann), getattr(ann, "meta", {}), trace(ann)
    modules = dict(network.named_modules())
    for node in list(graph.nodes):
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.ReLU):
            set_submodule(network, str(node.target), nn.Threshold(0.0, 0.0))
        projects = isinstance(module, nn.Linear) and _is_attention(node.args[0], modules)
        if isinstance(module, nn.LayerNorm | nn.GELU) or projects:
            insert_encoder(network, graph, node, list(node.users), f"{node.target}_encoder", Encoded())
    network = fx.GraphModule(network, graph, class_name=type(ann).__name__)
    network.meta.update(meta)
    return place_operators(network, (Encoded,), operators)


def _is_attention(value: Any, modules: Mapping[str, nn.Module]) -> bool:
    """Does `value` come from attention through changes of shape alone?"""
    while isinstance(value, fx.Node) and value.all_input_nodes:
        module = modules.get(str(value.target)) if value.op == "call_module" else None
        if isinstance(module, Attention):
            return True
        name = str(getattr(value.target, "__name__", value.target)).partition(".")[0]
        if not (isinstance(module, MOVES) if value.op == "call_module" else name in MOVING_CALLS):
            return False
        value = value.all_input_nodes[0]
    return False
