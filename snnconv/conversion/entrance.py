"""Input of conversion: any network, captured if necessary, and compared with its own forward pass."""

import contextlib
import copy
import itertools
import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.nn.graph.canonical import is_canonical
from snnconv.nn.graph.capture import capture, is_captured
from snnconv.nn.graph.equality import require_equal
from snnconv.nn.graph.kinds import WEIGHTED
from snnconv.runtime.error_notes import noting_inputs
from snnconv.spiking.operators import choice

log = logging.getLogger(__name__)
SIZES = (32, 28, 224, 64, 16, 8)  # of images, in the order in which they are tried


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
    with noting_inputs(ann, first):
        network = ann if is_canonical(ann, leaves) else capture(ann, first, leaves)
        if not is_captured(ann):
            require_equal(ann, network, first, leaves)
    return network, batches


def require_equal_without_inputs(original: nn.Module, network: nn.Module, kinds: tuple[type, ...]) -> None:
    """Compare the captured `network` with the forward pass of `original`, on random inputs if their shape can be found.

    ValueError as for `entered`; a warning if there is no comparison.
    """
    inputs = _random_inputs(original)
    if inputs is None:
        log.warning(
            "%s: not compared with its graph, as no inputs were given and their shape is not known; pass a batch of inputs",
            type(original).__name__,
        )
    else:
        require_equal(original, network, inputs, (*kinds, *choice.EXTRA))


@torch.no_grad()
def _random_inputs(network: nn.Module) -> Tensor | None:
    """Two random inputs of a shape that `network` takes, by its first layers with weights; None if no usual shape fits."""
    trial = copy.deepcopy(network).eval()
    layers = {type(module): module for module in reversed([*network.modules()]) if isinstance(module, WEIGHTED)}
    for layer in reversed(layers.values()):
        shapes: list[tuple[int, ...]] = [(layer.in_features,)] if isinstance(layer, nn.Linear) else [
            (layer.in_channels, *[size] * len(layer.kernel_size)) for size in SIZES]  # fmt: skip
        for shape in shapes:
            with torch.random.fork_rng(devices=[]), contextlib.suppress(Exception):  # the network is the user's
                inputs = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(layer.weight)
                trial(inputs)
                return inputs
    return None


def _first(batches: Iterable) -> tuple[Tensor | None, Iterable]:
    """The images of the first batch (None if there are none), and all batches, the first one included."""
    with torch.random.fork_rng(devices=[]):  # a loader draws random numbers at its start
        iterator = iter(batches)
        batch: Any = next(iterator, None)
    if iterator is batches and batch is not None:
        batches = itertools.chain([batch], iterator)
    images = batch[0] if isinstance(batch, (list, tuple)) else batch
    return (images if isinstance(images, Tensor) and len(images) else None), batches
