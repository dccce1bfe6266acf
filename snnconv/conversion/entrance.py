"""The way of any network into conversion: captured where that is needed, and compared with itself."""

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
    """`ann` as conversion of activations of `kinds` reads it, and `batches`, of which the first is the example.

    A network of torch's modules and activations is taken as it is, any other one is captured (`graph.capture`), for which it takes
    images.  Either is compared with the forward pass of `ann` (`graph.equality`).  ValueError naming what cannot be captured, or
    where the comparison fails.  Without images the network is taken as symbolic tracing reads it.
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
    """The images of the first of `batches`, None if there are none, and batches that still begin with it."""
    with torch.random.fork_rng(devices=[]):  # a loader draws numbers when it begins
        iterator = iter(batches)
        batch: Any = next(iterator, None)
    if iterator is batches and batch is not None:
        batches = itertools.chain([batch], iterator)
    images = batch[0] if isinstance(batch, (list, tuple)) else batch
    return (images if isinstance(images, Tensor) and len(images) else None), batches
