"""Input of conversion: any network, captured if necessary, and compared with its own forward pass."""

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.nn.graph.canonical import is_canonical
from snnconv.nn.graph.capture import capture, is_captured
from snnconv.nn.graph.equality import require_equal
from snnconv.spiking.operators import choice


def entered(ann: nn.Module, batches: Iterable, kinds: tuple[type, ...]) -> tuple[nn.Module, Iterable]:
    """`ann` in a form that conversion can trace, for activations of `kinds`, and `batches`, whose first batch is the example.

    A network of PyTorch's modules and activations is not changed; any other network is captured (`graph.capture`), which needs
    images.  The result is compared with the forward pass of `ann` (`graph.equality`).  ValueError naming an operation that cannot
    be captured, or the first difference.  Without images the network is not captured, and symbolic tracing must suffice.
    """
    leaves = (*kinds, *choice.EXTRA)
    first, batches = _first(batches)
    if first is None:
        return ann, batches
    network = ann if is_canonical(ann, leaves) else capture(ann, first, leaves)
    if not is_captured(ann):
        require_equal(ann, network, first, leaves)
    return network, batches


def _first(batches: Iterable) -> tuple[Tensor | None, Iterable]:
    """The images of the first batch (None if there are none), and all batches, the first one included."""
    with torch.random.fork_rng(devices=[]):  # a loader draws random numbers at its start
        iterator = iter(batches)
        batch: Any = next(iterator, None)
    if iterator is batches and batch is not None:
        batches = itertools.chain([batch], iterator)
    images = batch[0] if isinstance(batch, (list, tuple)) else batch
    return (images if isinstance(images, Tensor) and len(images) else None), batches
