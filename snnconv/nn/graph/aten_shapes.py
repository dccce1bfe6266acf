"""Rules for ATen calls that move or repeat the elements of a tensor, or create a tensor in the shape of another."""

import operator
import sys
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from snnconv.nn.graph.aten_calls import MIXES, plain, require_apart
from snnconv.nn.graph.batch_axis import batch_axis, fixed, keeps_order, shape
from snnconv.nn.graph.calls import bound, operation

RESHAPINGS = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
FACTORIES = (
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "zeros_like",
    "ones_like",
    "full_like",
)  # read only the shape of their argument


def reshape(lifting: Any, node: fx.Node) -> Any:
    """A reshaping that does not mix images."""
    source: Any = node.args[0]
    if not lifting.is_signal(source):
        return expand(lifting, node)
    before, after, x = shape(source), shape(node), lifting.values[source]
    if tuple(map(str, before)) == tuple(map(str, after)):
        return x
    if source in lifting.rows or not keeps_order(source, node):
        return _reordered(lifting, node)
    if len(after) == 2 and batch_axis(source) == batch_axis(node) == 0 and str(before[0]) == str(after[0]):
        return lifting.function(node, torch.flatten, x, 1)
    return lifting.function(node, torch.reshape, x, tuple(fixed(after)))


def _reordered(lifting: Any, node: fx.Node) -> Any:
    """A reshaping of [P, N, …] to [P·N, …] or back: in the graph the P rows of an image are adjacent, [N·P, …]."""
    source: Any = node.args[0]
    before, after, x = shape(source), shape(node), lifting.values[source]
    old, new = batch_axis(source) or 0, batch_axis(node) or 0
    rows = lifting.rows.get(source)
    if rows is None and new == 0 and str(after[0]) == str(prod(before[: old + 1])):
        lifting.rows[node] = prod(before[:old])
        return lifting.function(
            node, torch.reshape, lifting.function(node, torch.movedim, x, old, 0), tuple(fixed(after))
        )
    if rows is not None and prod(after[:new]) == rows and str(after[new] * rows) == str(before[0]):
        apart = lifting.function(node, torch.reshape, x, (-1, *after[:new], *after[new + 1 :]))
        return lifting.function(node, torch.movedim, apart, 0, new)
    raise ValueError(
        f"{lifting.where(node)}: {MIXES}, and this reshaping joins them with other dimensions; make the batch the first dimension"
    )


def squeeze(lifting: Any, node: fx.Node) -> Any:
    """torch.squeeze of constant dimensions of size 1; the batch dimension is never removed."""
    source: Any = node.args[0]
    dims = bound(node).get("dim")
    rank = source.meta["val"].dim()
    among = range(rank) if dims is None else [d % rank for d in (dims if isinstance(dims, (list, tuple)) else [dims])]
    ones = tuple(d for d in among if isinstance(shape(source)[d], int) and shape(source)[d] == 1)
    x = lifting.values[source]
    return lifting.function(node, torch.squeeze, x, ones) if ones else x


def sliced(lifting: Any, node: fx.Node) -> Any:
    """A slice of one dimension as indexing."""
    if tuple(map(str, shape(node.args[0]))) == tuple(map(str, shape(node))) and bound(node)["step"] == 1:  # type: ignore[arg-type]
        return lifting.values[node.args[0]]
    require_apart(lifting, node)
    arguments = bound(node)
    part = slice(arguments["start"], None if arguments["end"] == sys.maxsize else arguments["end"], arguments["step"])
    before = arguments["dim"] % len(shape(node))
    index = (*[slice(None)] * before, part)
    return lifting.function(node, operator.getitem, lifting.values[node.args[0]], index)


def transposed(lifting: Any, node: fx.Node) -> Any:
    """A transposition as torch.permute: the last two dimensions, or all dimensions, in reverse order."""
    source: Any = node.args[0]
    rank = source.meta["val"].dim()
    order = (*range(rank - 2), rank - 1, rank - 2) if operation(node) in ("mT", "t") else tuple(reversed(range(rank)))
    return lifting.function(node, torch.permute, lifting.values[source], order)


def repeat(lifting: Any, node: fx.Node) -> Any:
    """A repetition along dimensions other than the batch."""
    source: Any = node.args[0]
    if not lifting.is_signal(source):
        return expand(lifting, node)
    repeats = list(bound(node).get("repeats") or bound(node)["dims"])
    front = len(repeats) - source.meta["val"].dim()
    if repeats[front + (batch_axis(source) or 0)] != 1:
        raise ValueError(f"{lifting.where(node)}: {MIXES}")
    return plain(lifting, node)


def expand(lifting: Any, node: fx.Node) -> Any:
    """An expansion of a signal, or of a constant for every image."""
    source: Any = node.all_input_nodes[0] if node.all_input_nodes else None
    value = lifting.values.get(source)
    if lifting.is_signal(source):
        x = value
        if tuple(map(str, shape(source))) == tuple(map(str, shape(node))):
            return x
        return lifting.function(node, torch.Tensor.expand, x, *fixed(shape(node)))
    axis = batch_axis(node) or 0
    sizes = [size if isinstance(size, int) else 1 for size in shape(node)]
    if isinstance(value, Tensor) and operation(node) == "expand":
        one = lifting.argument(value)  # the same object, so that it stays a parameter
    elif isinstance(value, Tensor):
        one = lifting.argument(value.expand(sizes) if value.numel() == 1 else value.reshape(sizes))
    else:
        one = lifting.argument(filled(lifting, node, sizes))
    like = next(
        (n for n in reversed(lifting.signals) if str(shape(n)[batch_axis(n) or 0]) == str(shape(node)[axis])), None
    )
    if like is None:
        raise ValueError(f"{lifting.where(node)}: computes with the number of images, which differs between batches")
    return lifting.function(
        node, for_every_image, one, lifting.values[like], axis, batch_axis(like), tuple(fixed(shape(node)))
    )


def for_every_image(constant: Tensor, like: Tensor, axis: int, axis_of_like: int, sizes: tuple[int, ...]) -> Tensor:
    """`constant` expanded to `sizes`, with the number of images in `like` as the size of dimension `axis`."""
    return constant.expand(*(like.shape[axis_of_like] if i == axis else size for i, size in enumerate(sizes)))


fx.wrap("for_every_image")


def filled(lifting: Any, node: fx.Node, sizes: list[int]) -> Tensor:
    """Result of a factory call such as zeros_like, for one image."""
    values = {
        "zeros": 0.0,
        "ones": 1.0,
        "new_zeros": 0.0,
        "new_ones": 1.0,
        "zeros_like": 0.0,
        "ones_like": 1.0,
        "new_empty": 0.0,
    }
    arguments, name = bound(node), operation(node)
    fill = values.get(name, arguments.get("fill_value"))
    if not isinstance(fill, (int, float)):
        raise ValueError(f"{lifting.where(node)}: computes with the number of images, which differs between batches")
    return torch.full(sizes, fill, dtype=node.meta["val"].dtype)


def factory(lifting: Any, node: fx.Node) -> Any:
    """A constant in the shape of a signal (zeros_like, new_ones, …)."""
    axis = batch_axis(node) or 0
    sizes = [size if isinstance(size, int) else 1 for size in shape(node)]
    like: Any = node.all_input_nodes[0]
    one = lifting.argument(filled(lifting, node, sizes))
    return lifting.function(
        node, for_every_image, one, lifting.values[like], axis, batch_axis(like), tuple(fixed(shape(node)))
    )
