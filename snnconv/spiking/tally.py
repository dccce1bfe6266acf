"""One run of a spiking network over a data set: correct predictions, spikes and metrics at every t."""

import time
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from snnconv.data.loaders import Loader
from snnconv.runtime import console, distributed
from snnconv.spiking.confusion import Confusion, Counts
from snnconv.spiking.curve import Rates
from snnconv.spiking.metrics import update
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.recording import count_spikes
from snnconv.spiking.tasks import Task


def shown(batches: Loader) -> Iterator[tuple[Tensor, Tensor]]:
    """`batches`, with a progress bar in the main process."""
    count = len(batches.source) if isinstance(batches.source, Sized) else None
    yield from track(iter(batches), "spikes", total=count, transient=True, console=console.for_progress())


def require_images(images: float) -> None:
    """ValueError if no images were evaluated."""
    if not images:
        raise ValueError("the loader returned no images; a generator can be read only once")


@dataclass(frozen=True)
class Tally:
    """Result of one run over the data; `counts` [layers, steps, 4] come from `count_spikes`, on the first images."""

    correct: dict[int, float]
    metrics: dict[int, dict[str, Any]]
    images: int
    spikes: dict[int, float]
    rates: dict[int, Rates]
    paths: list[str]
    counts: Tensor
    emitted: tuple[int, int]
    changed: float | None
    confusion: Confusion | None
    prepare_seconds: float


def tally_of(snn: SpikingModel, batches: Loader, timesteps: list[int], rate_images: int) -> Tally:
    """Run all of `batches` once, for the largest of `timesteps`."""
    device, steps, evaluated, counted, start = batches.device, snn.steps(timesteps[-1]), 0, 0, time.perf_counter()
    snn.prepare(timesteps[-1])  # before its neurons are recorded
    prepared = time.perf_counter() - start
    correct = torch.zeros(len(timesteps), dtype=torch.int64, device=device)
    metrics_at = {t: started(snn.task, device) for t in timesteps}
    changed = torch.zeros(2, dtype=torch.int64, device=device)  # changed predictions, all predictions
    confusion = Counts(snn.task)  # at the last t
    counts: dict[str, Tensor] = {}
    for images, labels in shown(batches):
        if evaluated < rate_images:
            with count_spikes(snn) as emitted:
                outputs = _outputs(snn, images, timesteps)
            for path, rows in emitted.items():
                counts[path] = _merged([*([counts[path]] if path in counts else []), *rows.split(steps)])
            if snn.exact is not None:
                exact = _outputs(snn.exact.to(device), images, timesteps[-1:])[-1]
                differs = snn.task.decide(outputs[-1]) != snn.task.decide(exact)
                changed += torch.stack([differs.sum(), torch.full_like(differs.sum(), differs.numel())])
            counted = evaluated + len(images)
        else:
            outputs = _outputs(snn, images, timesteps)
        if not evaluated:
            snn.task.require_scored(outputs[-1], labels)
        correct = correct + snn.task.right(outputs, labels).sum(1)
        for t, output in zip(timesteps, outputs, strict=True):
            add(metrics_at[t], snn.task, output, labels)
        confusion.add(outputs[-1], labels)
        evaluated += len(images)
    total, counted = distributed.sum_over_ranks(torch.tensor([evaluated, counted], device=device)).tolist()
    require_images(total)
    every = torch.stack(list(counts.values()))
    every[..., :2] = distributed.sum_over_ranks(every[..., :2].contiguous())
    extremes = distributed.largest_over_ranks(torch.stack([-every[..., 2].min(), every[..., 3].max()]))
    changed = distributed.sum_over_ranks(changed)
    by_step = every[..., 0].sum(0).cumsum(0) / counted
    return Tally(
        correct=dict(zip(timesteps, distributed.sum_over_ranks(correct).tolist(), strict=True)),
        metrics={t: {name: metric.compute() for name, metric in metrics.items()} for t, metrics in metrics_at.items()},
        images=total,
        spikes={t: float(by_step[snn.timing.discard + t - 1]) for t in timesteps},
        rates=_rates(list(counts), every, {t: snn.timing.discard + t for t in timesteps}),
        paths=list(counts),
        counts=every,
        emitted=(-int(extremes[0]), int(extremes[1])),
        changed=None if snn.exact is None else float(changed[0] / changed[1]),
        confusion=confusion.total(total),
        prepare_seconds=prepared,
    )


def _rates(paths: list[str], counts: Tensor, steps: dict[int, int]) -> dict[int, Rates]:
    """Firing rates up to each t; `steps` are those simulated up to t."""
    spikes, neurons = counts[..., :2].cumsum(1).unbind(-1)  # [layers, steps]
    by_layer, mean = (spikes / neurons).T.tolist(), (spikes.sum(0) / neurons.sum(0)).tolist()
    return {t: Rates(mean[at - 1], dict(zip(paths, by_layer[at - 1], strict=True))) for t, at in steps.items()}


def _merged(parts: list[Tensor]) -> Tensor:
    """Counts [t, 4] of several batches, merged into one tensor."""
    rows = torch.stack(parts)
    return torch.stack([rows[..., 0].sum(0), rows[..., 1].sum(0), rows[..., 2].amin(0), rows[..., 3].amax(0)], 1)


def _outputs(snn: SpikingModel, images: Tensor, timesteps: list[int]) -> Tensor:
    """The readout at each t of `timesteps`, [t, N, …], from one run."""
    return snn.read(snn(images, timesteps[-1]))[[t - 1 for t in timesteps]]


def started(task: Task, device: torch.device) -> dict[str, Any]:
    """New copies of the metrics of a task, without samples."""
    return {name: measure.start(device) for name, measure in task.metrics.items()}


def add(metrics: dict[str, Any], task: Task, outputs: Tensor, targets: Tensor) -> None:
    """Add a batch to the metrics."""
    if metrics:
        shown = task.shown(outputs)
        for metric in metrics.values():
            update(metric, shown, targets)
