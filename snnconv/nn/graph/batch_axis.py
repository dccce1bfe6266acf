"""The batch dimension of the tensors of an exported network.

The export has one symbolic size, the number of images.  In a simulation the batch holds T·N of them, [T, N] flattened, so every
tensor needs one dimension that is the batch, or whose leading part is the batch.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, fx


def shape(node: fx.Node) -> Sequence[Any]:
    """Shape of the output of an exported `node`; the size of the batch is symbolic, not an int."""
    return node.meta["val"].shape


def batch_axis(node: fx.Node) -> int | None:
    """Batch dimension of the output of an exported `node`; None if no dimension or more than one is symbolic."""
    if not isinstance(node.meta.get("val"), Tensor):
        return 0
    axes = [axis for axis, size in enumerate(shape(node)) if not isinstance(size, int)]
    return axes[0] if len(axes) == 1 else None


def fixed(sizes: Sequence[Any]) -> list[int]:
    """`sizes` with -1 for the batch size."""
    return [size if isinstance(size, int) else -1 for size in sizes]


def keeps_order(source: fx.Node, node: fx.Node) -> bool:
    """Whether `node`, a reshaping of `source`, keeps the order of images: as many elements precede the batch before and after."""
    before, after = batch_axis(source), batch_axis(node)
    return before is not None and after is not None and prod(shape(source)[:before]) == prod(shape(node)[:after])
