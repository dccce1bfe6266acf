"""Conversion of a user's inputs and targets to the types and shapes of batches."""

from typing import Any

import torch
from torch import Tensor

from snnconv.data.facts import UNLABELLED


def as_inputs(x: Tensor, layout: str, path: Any) -> Tensor:
    """Inputs [M, C, …] in uint8 or float32; `layout` as in `arrays`.  ValueError naming the file, `path`."""
    if x.dim() < 2 and layout != "none":
        raise ValueError(
            f"{path}: inputs have shape {list(x.shape)}; expected [M, C, …], or set data.layout=none for one value per sample"
        )
    if layout == "auto":
        shape = list(x.shape)
        if x.dim() >= 4 and shape[-1] in (1, 2, 3, 4) and shape[1] > 4:
            raise ValueError(f"{path}: inputs {shape} look like channels last; set data.layout=last (or first)")
        if x.dim() == 3 and x.dtype == torch.uint8:
            raise ValueError(f"{path}: inputs {shape} of uint8 are ambiguous; set data.layout=none for grey images, "
                             "or data.layout=first if the second dimension is the channels")  # fmt: skip
    x = x.movedim(-1, 1) if layout == "last" else x.unsqueeze(1) if layout == "none" else x
    if x.is_complex():
        raise ValueError(f"{path}: inputs are {x.dtype}; expected real numbers, such as the magnitude")
    if x.dtype == torch.uint8:
        return x.contiguous()
    return require_finite(x.float().contiguous(), "input", path)


def as_targets(y: Tensor, targets: str, path: Any) -> Tensor:
    """Targets: classes [M] or maps of classes [M, …] in int64; numbers, or labels 0 and 1, [M, K, …] in float32."""
    if y.dim() == 0:
        raise ValueError(f"{path}: targets are a single number; expected one or several for each sample, [M, …]")
    y = y.squeeze(1) if y.dim() == 2 and y.shape[1] == 1 else y
    if y.dim() == 4 and not y.is_floating_point() and targets == "classes" and 1 in (y.shape[1], y.shape[3]):
        y = y.squeeze(1) if y.shape[1] == 1 else y.squeeze(3)  # maps of classes with a channel dimension of size 1
    numbers = y.is_floating_point() or targets == "numbers" or y.dim() == 2
    if numbers:
        y = require_finite(y.float(), "target", path)
        return y.unsqueeze(1) if y.dim() in (1, 3) else y
    y = y.long()
    if (wrong := (y < 0).flatten(1 if y.dim() > 1 else 0)).any():
        row = int(wrong.nonzero()[0][0])
        raise ValueError(
            f"{path}: target {int(y[row].min())} in row {row}; classes are 0, 1, 2, … (in maps, {UNLABELLED} means no label)"
        )
    return y


def require_finite(values: Tensor, what: str, path: Any) -> Tensor:
    """Return `values`; ValueError naming the first row with NaN or infinity."""
    wrong = ~values.isfinite().flatten(1).all(1) if values.dim() > 1 else ~values.isfinite()
    if wrong.any():
        rows = wrong.nonzero().flatten()
        raise ValueError(f"{path}: the {what} in row {int(rows[0])} is not finite ({len(rows)} such rows); remove these rows, or "
                         "fill them in")  # fmt: skip
    return values
