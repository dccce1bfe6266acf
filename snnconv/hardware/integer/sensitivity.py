"""Bits of each weight layer, chosen by the measured change of the outputs when its weights are rounded (mixed precision).

Layers are measured one at a time, and their errors are assumed to add up, as in ZeroQ (Cai et al., CVPR 2020).  The ANN is
measured, because a few differing spikes change the outputs of a spiking network at small T more than the rounding of one layer.
"""

import copy
import logging
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from snnconv.data.batches import first_images
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.kinds import WEIGHTED
from snnconv.nn.quantization import largest_integer, quantize

log = logging.getLogger(__name__)
IMAGES = 200
CHOICES = (2, 3, 4, 5, 6, 8)


@torch.no_grad()
def sensitivities(
    network: nn.Module, images: Sequence[Tensor], choices: Sequence[int] = CHOICES, per_channel: bool = True
) -> dict[str, dict[int, float]]:
    """Mean squared change of the outputs, relative to their mean square, by path of the layer and bits of its weights.

    `images` are batches [N, …].  All other layers stay floats.
    """
    network = fold_batchnorm(copy.deepcopy(network)).eval()
    layers: dict[str, Any] = {path: each for path, each in network.named_modules() if isinstance(each, WEIGHTED)}
    outputs = [network(x) for x in images]
    power = sum(float(each.square().sum()) for each in outputs)
    errors: dict[str, dict[int, float]] = {path: {} for path in layers}
    for path, layer in layers.items():
        weight = layer.weight.data
        for bits in choices:
            layer.weight.data = quantize(weight, bits, per_channel).values
            change = sum(float((network(x) - y).square().sum()) for x, y in zip(images, outputs, strict=True))
            errors[path][bits] = change / max(power, 1e-30)
        layer.weight.data = weight
    return errors


def propose(
    network: nn.Module, batches: Iterable[tuple[Tensor, Any]], average: float, *, choices: Sequence[int] = CHOICES,
    per_channel: bool = True,
) -> dict[str, int]:  # fmt: skip
    """Bits of each weight layer, by path, so that the weights of `network` have at most `average` bits on average.

    Starts with the largest of `choices` everywhere.  The layer whose error grows least for each saved bit gets the next smaller
    choice, until the average is reached; bits that are left go to the layers of the largest error.  ValueError for an average below
    the smallest choice, and without images.

    >>> _ = torch.manual_seed(0)
    >>> network = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
    >>> propose(network, [(torch.rand(50, 4), None)], 5.5, choices=(4, 8))
    {'0': 4, '2': 8}
    """
    choices = sorted(choices)
    for bits in choices:
        largest_integer(bits)
    if isinstance(average, bool) or not isinstance(average, int | float) or average < choices[0]:
        raise ValueError(f"integer.average_bits={average!r}: must be a number of at least {choices[0]}")
    images = first_images(batches, IMAGES)
    if not images:
        raise ValueError("integer.average_bits: needs calibration images; set data.calibration to 100 or more")
    errors = sensitivities(network, images, choices, per_channel)
    layers: dict[str, Any] = {path: network.get_submodule(path) for path in errors}
    sizes = {path: layer.weight.numel() for path, layer in layers.items()}
    return _within(average * sum(sizes.values()), sizes, errors)


def _within(budget: float, sizes: dict[str, int], errors: dict[str, dict[int, float]]) -> dict[str, int]:
    """Bits by path for which all weights have at most `budget` bits together."""
    choices = sorted(next(iter(errors.values())))
    larger = dict(pairwise(choices))
    smaller = {upper: lower for lower, upper in larger.items()}
    chosen = dict.fromkeys(errors, choices[-1])

    def total() -> int:
        return sum(chosen[path] * sizes[path] for path in chosen)

    def growth(path: str, lower: int, upper: int) -> float:
        """Growth of the error for each bit that `lower` saves."""
        return (errors[path][lower] - errors[path][upper]) / ((upper - lower) * sizes[path])

    while total() > budget:
        path = min(
            (path for path in chosen if chosen[path] in smaller), key=lambda p: growth(p, smaller[chosen[p]], chosen[p])
        )
        chosen[path] = smaller[chosen[path]]
    for path in sorted(chosen, key=lambda p: -errors[p][chosen[p]]):  # the last step may have saved more than needed
        while chosen[path] in larger and total() + (larger[chosen[path]] - chosen[path]) * sizes[path] <= budget:
            chosen[path] = larger[chosen[path]]
    return chosen


def settle_layers(settings: DictConfig, network: nn.Module, batches: Iterable[tuple[Tensor, Any]]) -> None:
    """Set `layers` of `settings` (conf/integer/) by `propose` if they have `average_bits`; logs the choice."""
    average = settings.get("average_bits")
    if average is None:
        return
    if settings.get("layers"):
        raise ValueError("integer.average_bits: chooses the bits of all layers, so integer.layers must not be set")
    layers = propose(network, batches, average, per_channel=settings.per_channel)
    with open_dict(settings):
        settings.layers = layers
    log.info(
        "Bits by measured sensitivity: integer.layers={%s}", ",".join(f"{path}:{bits}" for path, bits in layers.items())
    )
