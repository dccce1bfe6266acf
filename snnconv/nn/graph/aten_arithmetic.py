"""Rules for ATen calls of arithmetic: linear functions with constants, operators of one, two or three signals.

A signal is a tensor that depends on the image."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.nn.graph.aten_calls import MIXES, Rule, path_beside, plain, require_apart
from snnconv.nn.graph.aten_layers import ACTIVE_DROPOUT
from snnconv.nn.graph.batch_axis import batch_axis
from snnconv.nn.graph.calls import bound, operation
from snnconv.nn.graph.sites import Attention, Elementwise, MatMul, Reduction


def rsub(lifting: Any, node: fx.Node) -> Any:
    """rsub(x, other) as other − x."""
    (x, other, *_), _ = lifting.arguments(node)
    return lifting.function(node, operator.sub, other, x)


def two(make: Callable[[], nn.Module]) -> Rule:
    """The call unchanged if one argument is a constant; the module `make()` if both are signals."""

    def lift(lifting: Any, node: fx.Node) -> Any:
        signals = [a for a in node.args[:2] if isinstance(a, fx.Node) and lifting.is_signal(a)]
        if operation(node) == "div" and len(signals) == 1 and signals[0] is node.args[1]:
            return formula(lifting, node)
        if len(signals) < 2 or node.kwargs.get("rounding_mode"):
            return plain(lifting, node)
        return lifting.module(make(), path_beside(lifting, node), node, *signals)

    return lift


def matmul(lifting: Any, node: fx.Node) -> Any:
    """nn.Linear, a product with a constant, or `MatMul` of two signals."""
    signals = [n for n in node.all_input_nodes if lifting.is_signal(n)]
    if len(signals) == 2:
        equation = node.args[0] if operation(node) == "einsum" else None
        product = MatMul() if equation is None else MatMul(_Einsum(str(equation)))
        return lifting.module(product, path_beside(lifting, node), node, *signals)
    weight = lifting.values.get(node.args[1])
    if operation(node) in ("matmul", "mm") and isinstance(weight, Tensor) and weight.dim() == 2:
        layer = nn.Linear(weight.shape[0], weight.shape[1], bias=False, device="meta")
        layer.weight = nn.Parameter(weight.detach().t().contiguous(), requires_grad=weight.requires_grad)
        return lifting.module(layer, path_beside(lifting, node), node, node.args[0])
    if operation(node) == "einsum":
        _require_images_kept(lifting, node)
    return plain(lifting, node)


class _Einsum:
    """torch.einsum with a fixed equation."""

    def __init__(self, equation: str) -> None:
        self.equation = equation

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum(self.equation, a, b)


def _require_images_kept(lifting: Any, node: fx.Node) -> None:
    if batch_axis(node) is None:
        raise ValueError(f"{lifting.where(node)}: {MIXES}")


def attention(lifting: Any, node: fx.Node) -> Any:
    """Scaled dot-product attention as the module `Attention` of three signals."""
    given = bound(node)
    mask = given["attn_mask"]
    if given["dropout_p"]:
        raise ValueError(f"{lifting.where(node)}: {ACTIVE_DROPOUT}")
    if mask is not None and lifting.is_signal(mask):
        raise ValueError(f"{lifting.where(node)}: its attention mask depends on the image; expected a constant mask")
    settings = {
        name: given[name] for name in ("is_causal", "scale", "enable_gqa") if given.get(name) not in (None, False)
    }
    module = Attention(None if mask is None else lifting.values[mask], **settings)
    return lifting.module(
        module, path_beside(lifting, node), node, *(given[name] for name in ("query", "key", "value"))
    )


def formula(lifting: Any, node: fx.Node) -> Any:
    """A module `Elementwise` for an elementwise function of one signal."""
    return _formula(lifting, node, Elementwise)


def reduction(lifting: Any, node: fx.Node) -> Any:
    """A module `Reduction` for a function of one signal that combines elements of each image."""
    require_apart(lifting, node)
    source = node.all_input_nodes[0]
    if batch_axis(node) is None:
        raise ValueError(f"{lifting.where(node)}: {MIXES}")
    if lifting.is_signal(source) and batch_axis(source):
        raise ValueError(f"{lifting.where(node)}: expects the images in dimension 0; move the batch there")
    return _formula(lifting, node, Reduction)


def _formula(lifting: Any, node: fx.Node, kind: type[Elementwise]) -> Any:
    signals = [n for n in node.all_input_nodes if lifting.is_signal(n)]
    if len(signals) != 1 or node.meta["val"].dtype == torch.bool:
        return plain(lifting, node)
    graph = fx.Graph()
    x = graph.placeholder("x")
    holder = nn.Module()

    def inside(n: fx.Node) -> Any:
        if n is signals[0]:
            return x
        value = lifting.values[n]
        if value.dim() == 0:
            return value.item()
        holder.register_buffer(n.name, value.detach())
        return graph.get_attr(n.name)

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), inside)
    target: Any = getattr(torch, operation(node), node.target)
    graph.output(graph.call_function(target, args, kwargs))
    module = kind(fx.GraphModule(holder, graph), operation(node))
    return lifting.module(module, path_beside(lifting, node), node, signals[0])
