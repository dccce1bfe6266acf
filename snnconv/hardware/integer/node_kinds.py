"""Kinds of graph nodes that an integer network has, and their names in messages."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from snnconv.nn.graph.pooling import AveragePool

MOVING = (
    operator.getitem,
    torch.flatten,
    torch.reshape,
    F.pad,
    "flatten",
    "view",
    "reshape",
    "contiguous",
    "size",
    getattr,
)


def same(one: Any, other: Any) -> bool:
    """Whether two scales are equal up to rounding."""
    one, other = (torch.as_tensor(x, dtype=torch.float64) for x in (one, other))
    return one.dim() == other.dim() and torch.allclose(one, other, rtol=1e-9, atol=0)


def shown(scale: Any) -> str:
    """A scale, as text."""
    return "one for each channel" if isinstance(scale, Tensor) else f"{scale:.4g}"


def moves(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether `node` only moves elements, or pads them with zeros."""
    if node.target is F.pad:
        settings = (*node.args[2:], *node.kwargs.values())
        return all(value in ("constant", None, 0) for value in settings)
    return isinstance(module, nn.Flatten) or (node.op != "call_module" and node.target in MOVING)


def kind_of(node: fx.Node, module: nn.Module | None) -> str:
    """The class of `module`, or the function that `node` calls, as text."""
    return type(module).__name__ if module is not None else f"calls {getattr(node.target, '__name__', node.target)}"


def mean_over_space(node: fx.Node, shape: Sequence[int]) -> AveragePool | None:
    """Global average pooling if `node` computes the mean of its input [N, C, H, W] over height and width; else None."""
    if node.target not in (torch.mean, "mean") or len(shape) != 4:
        return None
    axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    if not isinstance(axes, list | tuple) or sorted(axis % 4 for axis in axes) != [2, 3]:
        return None
    return AveragePool(output_size=1)
