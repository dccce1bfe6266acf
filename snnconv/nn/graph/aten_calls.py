"""Shared parts of the rules for ATen calls: calls that stay calls, refused calls, paths of modules."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from snnconv.nn.graph.batch_axis import batch_axis
from snnconv.nn.graph.calls import bound, operation

Rule = Callable[[Any, fx.Node], Any]
TWINS: dict[str, Any] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "neg": operator.neg,
    "cat": torch.cat, "concat": torch.cat, "stack": torch.stack, "mean": torch.mean, "sum": torch.sum,
    "permute": torch.permute, "transpose": torch.transpose, "swapaxes": torch.transpose, "unsqueeze": torch.unsqueeze,
    "select": torch.select, "chunk": torch.chunk, "split": torch.split, "split_with_sizes": torch.split, "unbind": torch.unbind,
    "narrow": torch.narrow, "flip": torch.flip, "roll": torch.roll, "movedim": torch.movedim, "matmul": torch.matmul,
    "einsum": torch.einsum, "pad": F.pad, "pixel_shuffle": F.pixel_shuffle, "channel_shuffle": F.channel_shuffle,
}  # fmt: skip
MOVES = {
    "permute",
    "transpose",
    "swapaxes",
    "unsqueeze",
    "movedim",
    "stack",
    "t",
    "numpy_T",
    "mT",
    "squeeze",
}  # `dim` is not a dimension of summation
MIXES = "mixes the images of a batch; the output for an image must depend only on that image"


def refuse(reason: str) -> Rule:
    """A rule that raises ValueError with `reason`."""

    def rule(lifting: Any, node: fx.Node) -> Any:
        raise ValueError(f"{lifting.where(node)}: {reason}")

    return rule


def plain(lifting: Any, node: fx.Node) -> Any:
    """The same call, with a function of torch as target if there is one."""
    if operation(node) not in MOVES and hasattr(node.target, "_schema"):
        require_apart(lifting, node)
    if node.target is operator.getitem and isinstance(parts := lifting.values[node.args[0]], tuple):
        return parts[node.args[1]]  # type: ignore[index]
    args, kwargs = lifting.arguments(node)
    name = operation(node)
    target = TWINS.get(name, node.target)
    if name in ("add", "sub") and kwargs.get("alpha", 1) != 1:
        target = getattr(torch, name)
    return lifting.function(node, target, *args, **kwargs)


def require_apart(lifting: Any, node: fx.Node) -> None:
    """ValueError if `node` operates along the dimension of the images."""
    arguments = bound(node)
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor) and lifting.is_signal(n)]
    if not tensors:
        return
    source, axis = tensors[0], batch_axis(tensors[0])
    rank = source.meta["val"].dim()
    for name in ("dim", "dims", "axis"):
        named = arguments.get(name)
        dims = named if isinstance(named, (list, tuple)) else [named]
        if any(isinstance(dim, int) and dim % rank == axis for dim in dims):
            raise ValueError(f"{lifting.where(node)}: {MIXES}")
    for indices in [arguments["indices"]] if operation(node) == "index" else []:
        if len(indices) > (axis or 0) and indices[axis or 0] is not None:
            raise ValueError(f"{lifting.where(node)}: {MIXES}")


def same(lifting: Any, node: fx.Node) -> Any:
    """The input, or a call if its dtype changes."""
    source: Any = node.all_input_nodes[0]
    if source.meta["val"].dtype == node.meta["val"].dtype:
        return lifting.values[source]
    return plain(lifting, node)


def nothing(lifting: Any, node: fx.Node) -> None:
    """No node, because the call does not change values."""
    return None


def path_beside(lifting: Any, node: fx.Node) -> str:
    """Path of a new module for a call: the path of the module that calls `node`, and the name of the operation."""
    return lifting.path_for(node, operation(node))


def layer_path(lifting: Any, node: fx.Node, weight: Tensor | None) -> str:
    """Path of the module that owns `weight`, or a new path in the module that calls `node`."""
    name = lifting.names.get(id(weight), "") if weight is not None else ""
    owner, _, leaf = name.rpartition(".")
    if owner and leaf in ("weight", "running_mean") and not lifting.has_children(owner):
        return owner
    if leaf.endswith("_weight"):  # in_proj_weight of an attention
        return name.removesuffix("_weight")
    if (path := lifting.path_of(node)) and not lifting.has_children(path):
        return path
    return lifting.path_for(node, operation(node))
