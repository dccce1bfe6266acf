"""Accuracy of a network, and of a spiking network at every timestep, counted exactly over any number of processes."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor, nn

from snnconv.data.splits import Batches
from snnconv.runtime import distributed
from snnconv.spiking import SpikingModel, count_spikes, running_mean


@dataclass(frozen=True)
class Curve:
    """Accuracy against timesteps, with what was counted on the way."""

    correct: dict[int, int]  # right predictions after t timesteps, by t
    images: int
    firing_rate: dict[str, float]  # spikes per neuron and timestep, by layer, over the first images only
    mean_firing_rate: float  # the same over all neurons
    changed_predictions: (
        float | None
    )  # share at the last t that differs from float32, over the first images; None in float32
    seconds: float  # wall time of the whole evaluation

    @property
    def accuracy(self) -> dict[int, float]:
        """Fraction of images classified correctly, by t."""
        return {t: correct / self.images for t, correct in self.correct.items()}


@torch.no_grad()
def accuracy(network: nn.Module, batches: Batches) -> float:
    """Fraction of `batches` that `network` classifies correctly, in eval mode; its mode is restored."""
    was_training = network.training
    network.eval()
    counts = torch.zeros(2, dtype=torch.int64, device=batches.images.device)
    for images, labels in batches:
        correct = (network(images).argmax(1) == labels).sum()
        counts += torch.stack([correct, torch.tensor(len(labels), device=correct.device)])
    network.train(was_training)
    correct, total = distributed.sum_over_ranks(counts).tolist()
    return correct / total


@torch.no_grad()
def accuracy_over_time(
    snn: SpikingModel, batches: Batches, timesteps: int | Sequence[int], *, rate_images: int = 500
) -> Curve:
    """Accuracy at every t = 1…T (`timesteps` a number), or at the listed t.

    An `anytime` model is run once for the largest t; any other once for each t.  Predictions are the argmax of the running
    mean of the logits.
    """
    wanted = list(range(1, timesteps + 1)) if isinstance(timesteps, int) else sorted(set(timesteps))
    if not wanted or wanted[0] < 1:
        raise ValueError(f"timesteps={timesteps!r}: at least 1")
    device, start, seen = batches.images.device, time.perf_counter(), 0
    snn.to(device)
    correct = torch.zeros(len(wanted), dtype=torch.int64, device=device)
    counts: dict[str, Tensor] = {}
    changed = torch.zeros(2, dtype=torch.int64, device=device)  # predictions, of images
    for images, labels in track(batches, "spikes", transient=True, disable=not distributed.is_main()):
        with count_spikes(snn, counts) if seen < rate_images else nullcontext():
            predictions = _predictions(snn, images, wanted)
        correct += (predictions == labels).sum(1)
        if snn.exact is not None and seen < rate_images:
            differs = predictions[-1] != _predictions(snn.exact.to(device), images, wanted[-1:])[-1]
            changed += torch.stack([differs.sum(), torch.full_like(differs.sum(), len(images))])
        seen += len(images)
    total = int(distributed.sum_over_ranks(torch.tensor([seen], device=device)))
    changed = distributed.sum_over_ranks(changed)
    rates = distributed.sum_over_ranks(torch.stack(list(counts.values())))
    return Curve(
        correct=dict(zip(wanted, distributed.sum_over_ranks(correct).tolist(), strict=True)),
        images=total,
        firing_rate=dict(zip(counts, (rates[:, 0] / rates[:, 1]).tolist(), strict=True)),
        changed_predictions=None if snn.exact is None else float(changed[0] / changed[1]),
        mean_firing_rate=float(rates[:, 0].sum() / rates[:, 1].sum()),
        seconds=time.perf_counter() - start,
    )


def _predictions(snn: SpikingModel, images: Tensor, wanted: list[int]) -> Tensor:
    """The class predicted for each image at each wanted t, [t, N]."""
    readout = snn.latency.readout_from
    if snn.anytime:
        means = running_mean(snn(images, wanted[-1]), readout)[[t - 1 for t in wanted]]
    else:
        means = torch.stack([running_mean(snn(images, t), readout)[-1] for t in wanted])
    return means.argmax(-1)
