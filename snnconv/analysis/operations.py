"""Number of operations of a converted network, counted from its spikes on images, and of its ANN."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnconv.analysis.fan_out import Target, fan_out
from snnconv.data.batches import first_images
from snnconv.runtime import distributed
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.recording import recording
from snnconv.spiking.simulation import wanted_timesteps


@dataclass(frozen=True)
class Operations:
    """Operations for one image: of the ANN (`targets`), and of the SNN up to each T, averaged over `images` images."""

    targets: tuple[Target, ...]
    accumulates: dict[int, dict[str, float]]  # n spikes are n, signed ones |n|; by T and path of the target
    steps: dict[int, int]  # number of steps with neuron updates for T counted steps, including warm-up and look-ahead
    shown: dict[int, int]  # number of these steps that receive the image
    levels: dict[
        int, int
    ]  # number of values besides 0 that T steps distinguish: T times the largest number of spikes in a step
    images: int

    @property
    def spike_driven(self) -> float:
        """Share of the multiply-accumulates of a step (on changing values) that spikes reduce to accumulates.

        The rest are weights that receive values other than spikes, and products of two signals.
        """
        changing = sum(target.macs - target.constant for target in self.targets)
        return 1 - sum(target.varying for target in self.targets) / changing if changing else 1.0

    def as_dict(self) -> dict[str, Any]:
        """For `result.json`, layer by layer."""
        layers = {target.path: {name: value for name, value in vars(target).items() if value and name != "path"}
                  for target in self.targets}  # fmt: skip
        for path, layer in layers.items():
            layer["accumulates"] = {str(t): counts[path] for t, counts in self.accumulates.items()}
        steps = {str(t): steps for t, steps in self.steps.items()}
        return {"images": self.images, "steps": steps, "spike_driven": self.spike_driven, "layers": layers}


def listed_timesteps(timesteps: int | Sequence[int]) -> list[int]:
    """The listed T in order, or 1, 2, 4, … and T for a number T; ValueError unless all are integers of at least 1.

    >>> listed_timesteps(6)
    [1, 2, 4, 6]
    """
    every = wanted_timesteps(timesteps)
    return [t for t in every if t & (t - 1) == 0 or t == every[-1]] if isinstance(timesteps, int) else every


@torch.no_grad()
def count_operations(
    snn: SpikingModel,
    batches: Iterable[tuple[Tensor, Any]],
    timesteps: int | Sequence[int],
    *,
    images: int = 500,
    zeros: bool = True,
) -> Operations:
    """The operations of `snn` at every T = 1…`timesteps`, or at the listed T, on the first `images` images of `batches`.

    An accumulate adds one weight to one potential because of one spike.  All spikes up to T are counted, including those of warm-up
    and look-ahead steps.  Without `zeros`, weights that are 0 are not counted.  ValueError without images, or naming an operation
    that cannot be counted (`fan_out.fan_out`).
    """
    wanted, inputs = wanted_timesteps(timesteps), _first(batches, images)
    snn.to(inputs[0].device)
    counter = OperationCounter(snn, inputs[0], zeros=zeros)
    for part in snn.rounds(wanted):
        snn.prepare(part[-1])  # before its neurons are recorded
        with recording(snn, counter.start(part)):
            for each in inputs:
                snn(each, part[-1])
                counter.images += len(each)
        counter.finish()
    return counter.operations()


class OperationCounter:
    """Counts the operations of `snn` during runs of others: `start` before the runs for some T, `finish` after them.

    In between `observe(path, spikes)` receives all spikes (`recording`), and `images` is increased by the images of each run.
    """

    def __init__(self, snn: SpikingModel, example: Tensor, *, zeros: bool = True) -> None:
        self.snn, self.example, self.zeros, self.images = snn, example, zeros, 0
        self.targets: list[Target] = []
        self.accumulates: dict[int, dict[str, float]] = {}

    def start(self, part: list[int]) -> Callable[[str, Tensor], None]:
        """Begin runs for the largest T of `part`, for which `snn` is prepared; returns `observe`."""
        device = self.example.device
        self.targets, reach = fan_out(self.snn.network, self.example.shape[1:], zeros=self.zeros)
        columns = {target.path: number for number, target in enumerate(self.targets)}
        self.weights = {source: torch.stack([*fans.values()]).to(device) for source, fans in reach.items()}
        self.to = {source: torch.tensor([columns[t] for t in fans], device=device) for source, fans in reach.items()}
        self.part, self.steps, self.images, self.done = part, self.snn.steps(part[-1]), 0, Counter[str]()
        self.total = torch.zeros(self.steps, len(columns), dtype=torch.float64, device=device)
        return self.observe

    def observe(self, path: str, spikes: Tensor) -> None:
        """Add the accumulates that `spikes` [t, N, …] of a layer cause."""
        if path not in self.weights:
            return
        weights = self.weights[path]
        counts = spikes.abs().to(torch.promote_types(spikes.dtype, torch.float32))  # exact up to 2²⁴
        if weights.dim() == counts.dim():  # an image is several rows
            counts = counts.unflatten(1, (-1, weights.shape[1]))
        each = torch.tensordot(counts.new_ones(counts.shape[1]), counts, dims=([0], [1]))  # a sum over images, faster
        rows = torch.arange(self.done[path], self.done[path] + len(each), device=each.device).unsqueeze(1) % self.steps
        self.total[rows, self.to[path]] += each.flatten(1).double() @ weights.flatten(1).T
        self.done[path] += len(each)

    def finish(self) -> None:
        """End the runs for these T."""
        if any(done % self.steps for done in self.done.values()):
            raise ValueError(f"a layer took {max(self.done.values())} steps, not a multiple of the {self.steps} timesteps "
                             "of the model")  # fmt: skip
        self.images = int(distributed.sum_over_ranks(torch.tensor(self.images, device=self.example.device)).item())
        counts = distributed.sum_over_ranks(self.total).cumsum(0) / self.images
        for t in self.part:
            by_path = zip(self.targets, counts[self.snn.steps(t) - 1].tolist(), strict=True)
            self.accumulates[t] = {target.path: count for target, count in by_path}

    def operations(self) -> Operations:
        """The operations at every T."""
        snn, wanted = self.snn, sorted(self.accumulates)
        return Operations(
            targets=tuple(self.targets),
            accumulates=self.accumulates,
            steps={t: snn.steps(t) + snn.latency.warmup - snn.timing.discard for t in wanted},
            shown={t: min(snn.steps(t), snn.timing.presented or snn.steps(t)) for t in wanted},
            levels={t: snn.latency.spike_levels * t for t in wanted},
            images=self.images,
        )


def _first(batches: Iterable[tuple[Tensor, Any]], count: int) -> list[Tensor]:
    """The first `count` images of `batches`, batch by batch."""
    if type(count) is not int or count < 1:
        raise ValueError(f"images={count}: must be an integer of at least 1 (operations are counted on images)")
    if not (parts := first_images(batches, distributed.share_of(count))):
        raise ValueError("operations are counted from spikes on images, and there are no images")
    return parts
