"""Accuracy of a network, and of a spiking network at every timestep, counted exactly over any number of processes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor, nn

from snnconv.data.batches import Batches
from snnconv.runtime import distributed
from snnconv.spiking.model import SpikingModel, running_mean
from snnconv.spiking.recording import count_spikes


@dataclass(frozen=True)
class Curve:
    """Accuracy against timesteps, with what was counted on the way."""

    correct: dict[int, int]  # right predictions after t timesteps, by t
    images: int
    spikes: dict[
        int, float
    ]  # spikes per image up to t, warm-up included, by t; this and the next three over the first images
    firing_rate: dict[str, float]  # spikes per neuron and timestep at the last t, by layer
    mean_firing_rate: float  # the same over all neurons
    emitted: tuple[int, int]  # the least and the largest number of spikes of one neuron in one step
    changed_predictions: (
        float | None
    )  # share at the last t that differs from float32, over the first images; None in float32
    seconds: float  # wall time of the evaluation, without
    prepare_seconds: float  # that of making the network for each T, where it depends on T: the rest of the conversion

    @property
    def accuracy(self) -> dict[int, float]:
        """Fraction of images classified correctly, by t."""
        return {t: correct / self.images for t, correct in self.correct.items()}


@torch.no_grad()
def accuracy(network: nn.Module, batches: Batches) -> float:
    """Fraction of `batches` that `network` classifies correctly, in eval mode; its mode is restored."""
    was_training = network.training
    network.eval()
    counts = torch.zeros(2, dtype=torch.int64, device=batches.device)
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
    start = time.perf_counter()
    snn.to(batches.device)
    tallies = [_tally(snn, batches, part, rate_images) for part in snn.rounds(timesteps)]
    last, prepared = tallies[-1], sum(tally.prepare_seconds for tally in tallies)
    neurons, spikes = last.counts[:, :, 1].sum(1), last.counts[:, :, 0].sum(1)
    return Curve(
        correct={t: right for tally in tallies for t, right in tally.correct.items()},
        images=last.images,
        spikes={t: count for tally in tallies for t, count in tally.spikes.items()},
        firing_rate=dict(zip(last.paths, (spikes / neurons).tolist(), strict=True)),
        mean_firing_rate=float(spikes.sum() / neurons.sum()),
        emitted=(min(tally.emitted[0] for tally in tallies), max(tally.emitted[1] for tally in tallies)),
        changed_predictions=last.changed,
        seconds=time.perf_counter() - start - prepared,
        prepare_seconds=prepared,
    )


@dataclass(frozen=True)
class _Tally:
    """What one run over the data gave; counts are [layers, steps, 4], as `count_spikes` has them, over the first images."""

    correct: dict[int, int]
    images: int
    spikes: dict[int, float]
    paths: list[str]
    counts: Tensor
    emitted: tuple[int, int]
    changed: float | None
    prepare_seconds: float


def _tally(snn: SpikingModel, batches: Batches, wanted: list[int], rate_images: int) -> _Tally:
    """Run all of `batches` for the largest t of `wanted`."""
    device, steps, seen, start = batches.device, snn.steps(wanted[-1]), 0, time.perf_counter()
    snn.prepare(wanted[-1])  # before its neurons are recorded
    prepared = time.perf_counter() - start
    correct = torch.zeros(len(wanted), dtype=torch.int64, device=device)
    changed = torch.zeros(2, dtype=torch.int64, device=device)  # predictions, of images
    counts: dict[str, Tensor] = {}
    for images, labels in track(batches, "spikes", transient=True, disable=not distributed.is_main()):
        if seen < rate_images:
            with count_spikes(snn) as emitted:
                predictions = _predictions(snn, images, wanted)
            for path, rows in emitted.items():
                counts[path] = _merged([*([counts[path]] if path in counts else []), *rows.split(steps)])
            if snn.exact is not None:
                differs = predictions[-1] != _predictions(snn.exact.to(device), images, wanted[-1:])[-1]
                changed += torch.stack([differs.sum(), torch.full_like(differs.sum(), len(images))])
            counted = seen + len(images)
        else:
            predictions = _predictions(snn, images, wanted)
        correct += (predictions == labels).sum(1)
        seen += len(images)
    total, counted = distributed.sum_over_ranks(torch.tensor([seen, counted], device=device)).tolist()
    every = torch.stack(list(counts.values()))
    every[..., :2] = distributed.sum_over_ranks(every[..., :2].contiguous())
    extremes = distributed.largest_over_ranks(torch.stack([-every[..., 2].min(), every[..., 3].max()]))
    changed = distributed.sum_over_ranks(changed)
    by_step = every[..., 0].sum(0).cumsum(0) / counted
    return _Tally(
        correct=dict(zip(wanted, distributed.sum_over_ranks(correct).tolist(), strict=True)),
        images=total,
        spikes={t: float(by_step[snn.timing.discard + t - 1]) for t in wanted},
        paths=list(counts),
        counts=every,
        emitted=(-int(extremes[0]), int(extremes[1])),
        changed=None if snn.exact is None else float(changed[0] / changed[1]),
        prepare_seconds=prepared,
    )


def _merged(parts: list[Tensor]) -> Tensor:
    """Counts [t, 4] of several batches as one."""
    rows = torch.stack(parts)
    return torch.stack([rows[..., 0].sum(0), rows[..., 1].sum(0), rows[..., 2].amin(0), rows[..., 3].amax(0)], 1)


def _predictions(snn: SpikingModel, images: Tensor, wanted: list[int]) -> Tensor:
    """The class predicted for each image at each wanted t, [t, N], from one run."""
    return running_mean(snn(images, wanted[-1]), snn.latency.readout_from)[[t - 1 for t in wanted]].argmax(-1)
