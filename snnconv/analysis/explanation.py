"""Beside the accuracy of a converted network: why it is lower than the ANN's, what it costs, and how its spikes look."""

import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.analysis.advice import Advice, diagnose
from snnconv.analysis.costs import Costs
from snnconv.analysis.energy import FIRST_LAYER, Energy
from snnconv.analysis.errors import Decomposition, decompose
from snnconv.analysis.operations import count_operations
from snnconv.analysis.robustness import Disturbance, robustness
from snnconv.data.batches import Batches
from snnconv.data.splits import Splits
from snnconv.runtime import distributed
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.recording import watched

log = logging.getLogger(__name__)
SHOWN = 24  # neurons of a layer in the raster


@dataclass(frozen=True)
class Explanation:
    """What was found on some images, which are never those that the accuracy is reported on."""

    images: int
    role: str  # valid | calibration
    timesteps: tuple[int, ...]
    errors: Decomposition | None  # None of a method that shows the image in its first steps only
    advice: list[Advice]
    energy: Energy
    thresholds: dict[str, tuple[float, float]]  # smallest and largest θ of each layer
    robustness: dict[str, dict[str, Any]]  # accuracy of ANN and SNN, by disturbance; empty if none was asked for
    trains: dict[str, Tensor]  # spikes [T, neurons] of some neurons, by layer, for one image

    def summary(self) -> dict[str, Any]:
        """For `result.json`: accuracies of the ladder, advice, and energy of whole networks."""
        ladder, energy = self.errors and self.errors.as_dict(), self.energy.as_dict()
        tables = {
            name: {key: value for key, value in table.items() if key != "layers"}
            for name, table in energy["tables"].items()
        }
        return {
            "images": self.images,
            "role": self.role,
            "errors": ladder and {key: value for key, value in ladder.items() if key != "layers"},
            "advice": [advice.text() for advice in self.advice],
            "robustness": self.robustness,
            "energy": {"what": energy["what"], "bits": energy["bits"], "tables": tables},
        }

    def as_dict(self) -> dict[str, Any]:
        """For `explanation.json`: every layer too."""
        return {
            "images": self.images,
            "role": self.role,
            "errors": self.errors and self.errors.as_dict(),
            "advice": [advice.text() for advice in self.advice],
            "findings": [advice.as_dict() for advice in self.advice],
            "robustness": self.robustness,
            "energy": self.energy.as_dict(),
        }

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The same as rows, by the name of the table: what each error costs, the errors of each layer, and energy in µJ."""
        energy = self.energy
        found = {
            "energy": [
                {"timesteps": t, "costs": name, "snn": _microjoules(energy.snn(name, t)),
                 "quantized_ann": _microjoules(energy.quantized(name, t)), "ann": _microjoules(energy.ann(name))}
                for name in energy.costs
                for t in self.timesteps
            ]
        }  # fmt: skip
        if self.robustness:
            found["robustness"] = [
                {"disturbance": name, "ann": each["ann"], **{f"T={t}": value for t, value in each["snn"].items()}}
                for name, each in self.robustness.items()
            ]
        if self.errors is not None:
            found["accuracy_lost"] = [{"timesteps": t, **self.errors.drops(t)} for t in self.timesteps]
            found["layer_errors"] = [
                {"timesteps": layer.timesteps, "layer": layer.path, **layer.size, "firing_rate": layer.firing_rate,
                 "saturated": layer.saturated, "silent": layer.silent}
                for layer in self.errors.layers
            ]  # fmt: skip
        return found


def explaining(*, images: int, costs: Mapping[str, Costs], **settings: Any) -> Callable[..., Explanation | None]:
    """`explain` with these settings; ValueError for those that make no sense, before anything takes long."""
    if type(images) is not int or images < 0:
        raise ValueError(f"explain.images={images!r}: a whole number of images, 0 for no explanation")
    if images and not costs:
        raise ValueError("costs: no table; choose some of conf/costs, as costs=[fp32_45nm,int8_45nm]")
    if (first := settings.get("first_layer", "every_step")) not in FIRST_LAYER:
        raise ValueError(f"explain.first_layer={first!r}: {' or '.join(FIRST_LAYER)}")
    return functools.partial(explain, images=images, costs=costs, **settings)


def explain(ann: nn.Module, snn: SpikingModel, *arguments: Any, **settings: Any) -> Explanation | None:
    """As `explanation` has it; None, and a warning, where something cannot be explained: results are not lost with it."""
    try:
        return explanation(ann, snn, *arguments, **settings)
    except ValueError as error:
        log.warning("report.html explains nothing: %s", error)
    except torch.OutOfMemoryError as error:
        if distributed.world_size() > 1:  # the others wait for this one
            raise
        log.warning("report.html explains nothing: %s; fewer images (explain.images) may do", error)
    return None


def explanation(
    ann: nn.Module,
    snn: SpikingModel,
    data: Splits,
    timesteps: Sequence[int],
    *,
    images: int,
    costs: Mapping[str, Costs],
    first_layer: str = "every_step",
    disturbances: Mapping[str, Disturbance] | None = None,
) -> Explanation | None:
    """Errors, energy and spikes of `snn`, converted from `ann`, at each T, on the first `images` validation images.

    On calibration images where no images are kept for validation: what is found here suggests what to change, so test images
    have no part in it.  None for `images` = 0.  ValueError, in every process, where there is no image for each of them.
    """
    if not images:
        return None
    role, batches = ("valid", data.valid) if data.valid.count else ("calibration", data.calibration)
    if not batches.count:
        return None
    if min(images, batches.count) < distributed.world_size():
        raise ValueError(f"{min(images, batches.count)} images for {distributed.world_size()} processes; "
                         "use fewer, or more images (explain.images, data.valid)")  # fmt: skip
    batches = copy.copy(batches)
    batches.everywhere = False  # each process takes its part
    errors = decompose(ann, snn, batches, timesteps, images) if snn.presented is None else None
    operations = count_operations(snn, batches, timesteps, images=images)
    return Explanation(
        images=operations.images,
        role=role,
        timesteps=tuple(timesteps),
        errors=errors,
        advice=diagnose(errors, ann, timesteps) if errors else [],
        energy=Energy(operations, costs, first_layer),
        robustness=robustness(ann, snn, batches, disturbances, timesteps, images) if disturbances else {},
        thresholds={path: _extremes(neuron.threshold) for path, neuron in snn.neurons().items()},
        trains=spike_trains(snn, batches, max(timesteps)),
    )


def _microjoules(layers: Mapping[str, float]) -> float:
    return sum(layers.values()) / 1e6


def _extremes(threshold: Any) -> tuple[float, float]:
    values = torch.as_tensor(threshold)
    return float(values.min()), float(values.max())


def spike_trains(snn: SpikingModel, batches: Batches, timesteps: int) -> dict[str, Tensor]:
    """Spikes [T, neurons] of the first, a middle and the last layer for the first image, warm-up included.

    Of each layer at most `SHOWN` neurons, spread evenly over those that fire at all.
    """
    image = next(iter(batches))[0][:1]
    paths = list(snn.neurons())
    seen: dict[str, list[Tensor]] = {path: [] for path in (paths[0], paths[len(paths) // 2], paths[-1])}

    def observe(path: str, spikes: Tensor) -> None:
        if path in seen:  # all layers at every step would be too much to keep
            seen[path].append(spikes[:, :1].flatten(1).cpu())

    snn.prepare(timesteps)
    with watched(snn, observe):
        snn(image, timesteps)
    return {path: _some(torch.cat(spikes)) for path, spikes in seen.items()}


def _some(spikes: Tensor) -> Tensor:
    firing = spikes.any(0).nonzero().flatten()
    every = firing if len(firing) else torch.arange(spikes.shape[1])
    return spikes[:, every[torch.linspace(0, len(every) - 1, min(SHOWN, len(every))).long()]]
