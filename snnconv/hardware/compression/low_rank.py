"""Low-rank factorization: a k×k convolution becomes k×1 and 1×k convolutions with fewer channels and no neuron between them."""

import copy
import logging
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from snnconv.nn.graph.rewrite import set_submodule

log = logging.getLogger(__name__)


@torch.no_grad()
def split_convolutions(
    network: nn.Module,
    batches: Iterable,
    *,
    energy: float | None = None,
    budget: float | None = 0.5,
    ranks: Mapping[str, int] | None = None,
    except_for: Iterable[str] = (),
    multiple: int = 1,
) -> nn.Module:
    """A copy of `network` in which k×k convolutions are split in two: w[o, i, y, x] ≈ Σ_r h[o, r, x] · v[r, i, y], by SVD.

    The rank is a multiple of `multiple`: the smallest that keeps a share `energy` of the squared singular values, or the largest
    whose weights are at most a share `budget` of the layer's.  `ranks` sets other ranks for paths that match a pattern.  A layer is
    not split if the two convolutions would not have fewer weights, if no rank is small enough, if it has several groups, or if its
    path matches `except_for`.  Source: Jaderberg et al., BMVC 2014; Tai et al., ICLR 2016.

    ValueError for an energy or budget outside (0, 1], for both or neither, for an impossible rank, or if no layer is split.
    """
    if (energy is None) == (budget is None):
        raise ValueError(f"compress: energy={energy}, budget={budget}: set one of them, and the other to null")
    share: Any = budget if energy is None else energy
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(
            f"compress: {'budget' if energy is None else 'energy'}={share!r}: must be above 0 and at most 1"
        )
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise ValueError(f"compress: multiple={multiple!r}: must be an integer of at least 1")
    network, given_ranks, patterns = (
        copy.deepcopy(network),
        {str(key): rank for key, rank in (ranks or {}).items()},
        tuple(except_for),
    )
    unused, done, whole = set(given_ranks), 0, list[str]()
    layers = [(path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    for path, layer in layers:
        if layer.groups > 1 or min(layer.kernel_size) == 1 or any(fnmatch(path, p) for p in patterns):
            continue
        pattern = next((pattern for pattern in given_ranks if fnmatch(path, pattern)), None)
        unused.discard(pattern)  # type: ignore[arg-type]
        (h, w), least = (
            layer.kernel_size,
            layer.in_channels * layer.kernel_size[0] + layer.out_channels * layer.kernel_size[1],
        )
        matrix = layer.weight.double().permute(1, 2, 0, 3).reshape(layer.in_channels * h, layer.out_channels * w)
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        if pattern is not None:
            rank = given_ranks[pattern]
            if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= len(sizes):
                raise ValueError(f"{path}: rank={rank!r}: must be an integer from 1 to {len(sizes)}")
        elif energy is not None:
            energies = sizes.square().cumsum(0) / sizes.square().sum().clamp_min(1e-300)
            rank = -(-(int((energies < energy - 1e-12).sum()) + 1) // multiple) * multiple
        else:
            rank = int(share * layer.weight.numel() / least) // multiple * multiple
        if rank < 1 or rank * least >= layer.weight.numel():
            whole.append(path)
            continue
        set_submodule(network, path, _halves(layer, left[:, :rank], sizes[:rank], right[:rank]))
        done += 1
    if unused:
        raise ValueError(f"compress: ranks for {', '.join(sorted(unused))}: no k×k convolution has a matching path")
    if not done:
        raise ValueError(
            f"{type(network).__name__}: no convolution becomes smaller by splitting; choose a smaller budget or energy"
        )
    if whole:
        log.info("Convolutions that are not split: %s", ", ".join(whole))
    return network


def _halves(layer: nn.Conv2d, left: torch.Tensor, sizes: torch.Tensor, right: torch.Tensor) -> nn.Sequential:
    """k×1, then 1×k convolution; each contains the square roots of the singular values, so that their weights have similar size."""
    rank, (h, w), padding = len(sizes), layer.kernel_size, layer.padding
    tall: Any = padding if isinstance(padding, str) else (padding[0], 0)
    wide: Any = padding if isinstance(padding, str) else (0, padding[1])
    (sh, sw), (dh, dw) = layer.stride, layer.dilation
    like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    down = nn.Conv2d(
        layer.in_channels, rank, (h, 1), (sh, 1), tall, (dh, 1), bias=False, padding_mode=layer.padding_mode, **like
    )
    across = nn.Conv2d(
        rank, layer.out_channels, (1, w), (1, sw), wide, (1, dw), bias=layer.bias is not None,
        padding_mode=layer.padding_mode, **like,
    )  # fmt: skip
    root = sizes.sqrt()
    down.weight.copy_((left * root).T.reshape(rank, layer.in_channels, h, 1))
    across.weight.copy_((root.unsqueeze(1) * right).reshape(rank, layer.out_channels, 1, w).transpose(0, 1))
    if layer.bias is not None:
        across.bias.copy_(layer.bias)  # type: ignore[union-attr]
    return nn.Sequential(down, across)
