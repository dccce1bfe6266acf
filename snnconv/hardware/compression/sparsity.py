"""2:4 sparsity: of every four weights of adjacent input channels, the two largest are kept."""

import copy
import logging
from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.nn.graph.kinds import WEIGHTED

log = logging.getLogger(__name__)


def sparsify(
    network: nn.Module, batches: Iterable, *, keep: int = 2, of: int = 4, except_for: Iterable[str] = ()
) -> nn.Module:
    """A copy of `network` in which only the `keep` largest of every `of` weights of a layer are not 0.

    Groups of `of` weights are formed along the input channels, for each output and position of the kernel.  With `fit.keep_zeros`
    the zeros stay 0 in training.  A layer is not changed if its number of input channels (of one group) is not a multiple of `of`,
    or if its path matches a pattern of `except_for`.
    Source: Mishra et al., 2021 (Accelerating Sparse Deep Neural Networks).  ValueError for numbers out of range, or if no layer is
    changed.
    """
    if any(isinstance(n, bool) or not isinstance(n, int) for n in (keep, of)) or not 1 <= keep < of:
        raise ValueError(f"compress: keep={keep!r} of={of!r}: must be integers with 1 ≤ keep < of")
    network, patterns, whole = copy.deepcopy(network), tuple(except_for), []
    layers = {path: module for path, module in network.named_modules() if isinstance(module, WEIGHTED)}
    for path, layer in layers.items():
        weight: Any = layer.weight
        if weight.shape[1] % of or any(fnmatch(path, pattern) for pattern in patterns):
            whole.append(path)
        else:
            weight.data *= largest(weight.detach(), keep, of)
    if len(whole) == len(layers):
        raise ValueError(f"{type(network).__name__}: no layer can be made sparse; no number of input channels is a multiple of "
                         f"{of}, or except_for matches all layers")  # fmt: skip
    if whole:
        log.info("Layers that are not made sparse: %s", ", ".join(whole))
    return network


def largest(weight: Float[Tensor, "O I *kernel"], keep: int, of: int) -> Tensor:
    """Mask: 1 for the `keep` largest of every `of` adjacent weights along the inputs (of equal ones the first), else 0."""
    grouped = weight.abs().unflatten(1, (-1, of))
    order = grouped.argsort(dim=2, descending=True, stable=True)
    mask = torch.zeros_like(grouped).scatter_(2, order[:, :, :keep], 1.0)
    return mask.flatten(1, 2)
