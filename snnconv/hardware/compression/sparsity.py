"""2:4 sparsity: of every four weights that meet neighbouring input channels, the two largest stay."""

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
    """A copy of `network` whose convolutions and linear layers keep the `keep` largest of every `of` weights, for each output
    and place of the kernel along the input channels; the others are 0.  `fit.keep_zeros` keeps them so in training.

    Layers whose input channels (of one group) are no multiple of `of`, and paths that fit a pattern of `except_for`, stay whole.
    Source: Mishra et al., 2021 (Accelerating Sparse Deep Neural Networks).  ValueError for numbers out of range, or if no layer
    is left.
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
        raise ValueError(f"{type(network).__name__}: no layer to make sparse, their input channels are no multiple of {of} "
                         "(or except_for names them all)")  # fmt: skip
    if whole:
        log.info("Weights kept whole: %s", ", ".join(whole))
    return network


def largest(weight: Float[Tensor, "O I *kernel"], keep: int, of: int) -> Tensor:
    """1 for the `keep` largest of every `of` neighbours along the inputs, 0 for the others; the first of equals."""
    grouped = weight.abs().unflatten(1, (-1, of))
    order = grouped.argsort(dim=2, descending=True, stable=True)
    mask = torch.zeros_like(grouped).scatter_(2, order[:, :, :keep], 1.0)
    return mask.flatten(1, 2)
