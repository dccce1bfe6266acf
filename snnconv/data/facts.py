"""Values computed from the files of a data set (classes, shape, mean, standard deviation) for settings that are null."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable)
UNLABELLED = 255  # class of the pixels of a map that neither the loss nor a metric counts
ROWS = 2**22  # values that are summed at once


def finds(facts: Callable[..., Mapping[str, Any]]) -> Callable[[F], F]:
    """Decorator of a data set: `facts(**settings)` returns the values for settings that are null in its configuration."""

    def decorate(data: F) -> F:
        data.find = facts  # type: ignore[attr-defined]
        return data

    return decorate


def moments(inputs: Tensor, axes: int = 0) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of inputs [M, C, …]; uint8 inputs are scaled to 0…1 first.

    `axes` is the number of axes between samples and channels.  The deviation of a constant channel is 1.
    """
    flat = inputs.flatten(0, axes) if axes else inputs
    each = max(1, ROWS // max(1, flat[0].numel()))
    sums = torch.zeros(2, flat.shape[1], dtype=torch.float64)
    for part in flat.split(each):
        values = part.double().transpose(0, 1).flatten(1)
        sums += torch.stack([values.sum(1), values.square().sum(1)])
    highest = 255 if inputs.dtype == torch.uint8 else 1
    mean, square = sums / (flat.numel() / flat.shape[1])
    std = (square - mean.square()).clamp_min(0).sqrt() / highest
    std[std <= 1e-6] = 1
    return _rounded(mean / highest), _rounded(std)


def _rounded(values: Tensor) -> list[float]:
    """Numbers rounded to six digits."""
    return [float(f"{value:.6g}") for value in values.tolist()]


def facts_of(inputs: Tensor, targets: Tensor, axes: int = 0) -> dict[str, Any]:
    """`input_shape`, `mean`, `std`, `num_classes` (or the number of outputs), and moments of targets that are numbers.

    `targets` are those that `as_targets` returns.
    """
    mean, std = moments(inputs, axes)
    facts: dict[str, Any] = {"input_shape": list(inputs.shape[1:]), "mean": mean, "std": std}
    if targets.is_floating_point():
        facts["num_classes"] = targets.shape[1]
        facts["target_mean"], facts["target_std"] = moments(targets)
    else:
        facts["num_classes"] = int(targets[targets != UNLABELLED].max() if targets.dim() > 1 else targets.max()) + 1
    return facts
