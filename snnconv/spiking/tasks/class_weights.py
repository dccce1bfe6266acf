"""Weights of the loss by class, against classes of unequal frequency."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

ClassWeights = Literal["balanced"] | Sequence[float] | None  # "balanced": inversely proportional to the frequency


def require_weights(weights: ClassWeights, name: str = "class_weights") -> None:
    """ValueError unless `weights` are of the kinds above, and not negative."""
    if isinstance(weights, str) and weights != "balanced":
        raise ValueError(f"task.{name}={weights!r}: must be balanced, or a weight for each of them")
    if not isinstance(weights, str) and any(value < 0 for value in weights or ()):
        raise ValueError(f"task.{name}={list(weights or ())}: must not be negative")


def as_tensor(weights: ClassWeights, outputs: Tensor) -> Tensor | None:
    """The weights in the type and on the device of a network's outputs, None if there are none."""
    if weights is None:
        return None
    if isinstance(weights, str):
        raise ValueError("balanced weights are found in the training targets; call task.prepared(targets)")
    return torch.as_tensor(weights, dtype=outputs.dtype, device=outputs.device)


def balanced(counts: Tensor) -> list[float]:
    """The weights that give every class the same share of the loss; ValueError naming a class without samples."""
    if (counts == 0).any():
        raise ValueError(f"task.class_weights=balanced: no training sample has class {int((counts == 0).nonzero()[0])}")
    return (counts.sum() / (len(counts) * counts.double())).tolist()
