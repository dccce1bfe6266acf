"""The batch dimension in the tensors of an exported network, and calls that would mix the images of a batch.

The export has one size that is not known, the number of images.  Over time a batch holds T·N of them, the steps outermost, so every
tensor needs one dimension that is the batch or begins with it.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, fx


def shape(node: fx.Node) -> Sequence[Any]:
    """The sizes of what an exported `node` gives; the batch is no int."""
    return node.meta["val"].shape


def batch_axis(node: fx.Node) -> int | None:
    """The dimension of `node`, of an export, that holds the images; None if none or more than one does."""
    if not isinstance(node.meta.get("val"), Tensor):
        return 0
    axes = [axis for axis, size in enumerate(shape(node)) if not isinstance(size, int)]
    return axes[0] if len(axes) == 1 else None


def fixed(sizes: Sequence[Any]) -> list[int]:
    """`sizes` with -1 for the batch."""
    return [size if isinstance(size, int) else -1 for size in sizes]


def keeps_order(source: fx.Node, node: fx.Node) -> bool:
    """Does `node`, a reshaping of `source`, leave the images where the batch begins?"""
    before, after = batch_axis(source), batch_axis(node)
    return before is not None and after is not None and prod(shape(source)[:before]) == prod(shape(node)[:after])
