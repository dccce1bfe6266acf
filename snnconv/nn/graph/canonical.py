"""Networks whose symbolic trace has the form that `capture` returns."""

import copy
import operator
from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from snnconv.nn.graph import leaves
from snnconv.nn.graph.capture import is_captured
from snnconv.nn.graph.kinds import LINEAR_FUNCTIONS, LINEAR_METHODS, SCALING, is_linear
from snnconv.nn.graph.sites import is_site
from snnconv.nn.graph.trace import Operation, trace

CALLS = (*(f for f in LINEAR_FUNCTIONS if f is not F.dropout), *LINEAR_METHODS, *SCALING)


def is_canonical(network: nn.Module, kinds: tuple[type, ...] = ()) -> bool:
    """Whether `network` certainly calls only modules of torch, activations, modules of `kinds` and linear functions.

    Each activation is called once and does not change a value in place that is used elsewhere, each module has one name, and the
    forward pass has one tensor as input and one as output.
    """
    if is_captured(network):
        return True
    network = copy.deepcopy(network).eval()  # a forward pass may change attributes, and tracing stores constants there
    try:
        graph = trace(network, kinds)
    except ValueError:
        return False
    names = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    (output,) = [node for node in graph.nodes if node.op == "output"]
    activations = {path for path, module in network.named_modules() if is_site(module) or isinstance(module, kinds)}
    return (
        len(inputs) == 1
        and isinstance(output.args[0], fx.Node)
        and activations <= uses.keys()
        and all(_is_obvious(node, network, kinds, names, uses) for node in graph.nodes)
    )


def _is_obvious(node: fx.Node, network: nn.Module, kinds: tuple[type, ...], names: Counter, uses: Counter) -> bool:
    if node.op == "get_attr":
        return not str(node.target).startswith("_tensor_constant")
    if node.op == "call_module":
        module: Any = network.get_submodule(str(node.target))
        once = uses[node.target] == 1 or not (is_site(module) or isinstance(module, kinds))
        inplace = getattr(module, "inplace", False) and len(node.all_input_nodes[0].users) > 1
        plain = leaves.is_opaque(module, kinds) or (leaves.stays(module) and not isinstance(module, leaves.SPELLINGS))
        return (
            plain
            and once
            and not inplace
            and names[id(module)] == 1
            and (len(node.all_input_nodes) == 1 or isinstance(module, Operation))
        )
    if node.op in ("call_function", "call_method"):
        return node.target in CALLS and is_linear(node, None) and _keeps_images(node)
    return True


def _keeps_images(node: fx.Node) -> bool:
    """Whether `node` certainly keeps the batch as dimension 0 and does not mix images."""
    rest: Any = (*node.args[1:], *node.kwargs.values())
    if node.target is getattr:
        return rest == ("shape",)
    if node.target is operator.getitem:  # of a shape
        return isinstance(node.args[0], fx.Node) and node.args[0].target is getattr
    if node.target in ("mean", torch.mean, torch.cat, "flatten", torch.flatten):
        dims = rest[0] if rest and isinstance(rest[0], (list, tuple)) else rest[:1]
        return bool(dims) and all(isinstance(dim, int) and dim > 0 for dim in dims)
    if node.target in ("view", "reshape", torch.reshape):
        first = rest[0] if rest else None
        return isinstance(first, fx.Node) and len(rest) == 2 and rest[1] == -1
    return node.target not in ("permute", "transpose") and (node.target != "size" or rest == (0,))
