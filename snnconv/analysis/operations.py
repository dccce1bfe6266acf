"""Number of operations of a converted network, counted from its spikes on images, and of its ANN."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnconv.analysis.fan_out import FanOut, Target, fan_out
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
    accumulates: dict[int, dict[str, float]] = {}
    total = distributed.sum_over_ranks(torch.tensor(sum(map(len, inputs)), device=inputs[0].device)).item()
    for part in snn.rounds(wanted):
        snn.prepare(part[-1])  # before its neurons are recorded
        targets, reach = fan_out(snn.network, inputs[0].shape[1:], zeros=zeros)
        counts = _count(snn, inputs, part[-1], [target.path for target in targets], reach).cumsum(0) / total
        for t in part:
            by_path = zip(targets, counts[snn.steps(t) - 1].tolist(), strict=True)
            accumulates[t] = {target.path: count for target, count in by_path}
    steps = {t: snn.steps(t) + snn.latency.warmup - snn.timing.discard for t in wanted}
    return Operations(
        targets=tuple(targets),
        accumulates=accumulates,
        steps=steps,
        shown={t: min(snn.steps(t), snn.timing.presented or snn.steps(t)) for t in wanted},
        levels={t: snn.latency.spike_levels * t for t in wanted},
        images=int(total),
    )


def _first(batches: Iterable[tuple[Tensor, Any]], count: int) -> list[Tensor]:
    """The first `count` images of `batches`, batch by batch."""
    if type(count) is not int or count < 1:
        raise ValueError(f"images={count}: must be an integer of at least 1 (operations are counted on images)")
    if not (parts := first_images(batches, distributed.share_of(count))):
        raise ValueError("operations are counted from spikes on images, and there are no images")
    return parts


def _count(snn: SpikingModel, batches: list[Tensor], timesteps: int, paths: list[str], reach: FanOut) -> Tensor:
    """Accumulates of each simulated step, [steps, targets], over all images."""
    device, steps = batches[0].device, snn.steps(timesteps)
    columns = {path: number for number, path in enumerate(paths)}
    weights = {source: torch.stack([*fans.values()]).to(device) for source, fans in reach.items()}
    to = {source: torch.tensor([columns[target] for target in fans], device=device) for source, fans in reach.items()}
    total = torch.zeros(steps, len(paths), dtype=torch.float64, device=device)
    done: Counter[str] = Counter()  # steps seen of each layer

    def observe(path: str, spikes: Tensor) -> None:
        if path in weights:
            counts = spikes.abs().to(torch.promote_types(spikes.dtype, torch.float32))  # exact up to 2²⁴
            if weights[path].dim() == counts.dim():  # an image is several rows
                counts = counts.unflatten(1, (-1, weights[path].shape[1]))
            each = torch.tensordot(
                counts.new_ones(counts.shape[1]), counts, dims=([0], [1])
            )  # a sum over images, faster
            rows = torch.arange(done[path], done[path] + len(each), device=device).unsqueeze(1) % steps
            total[rows, to[path]] += each.flatten(1).double() @ weights[path].flatten(1).T
            done[path] += len(each)

    with recording(snn, observe):
        for images in batches:
            snn(images, timesteps)
    if any(steps_done % steps for steps_done in done.values()):
        raise ValueError(
            f"a layer took {max(done.values())} steps, not a multiple of the {steps} timesteps of the model"
        )
    return distributed.sum_over_ranks(total)
