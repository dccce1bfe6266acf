"""Explanation of a converted network: causes of lost accuracy, energy, spikes."""

import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.analysis.advice import Advice, diagnose, most_important
from snnconv.analysis.costs import DEFAULT, Costs, TableNames, tables_of
from snnconv.analysis.counterpart import counterpart
from snnconv.analysis.energy import FIRST_LAYER, Energy
from snnconv.analysis.errors import Decomposition, decompose
from snnconv.analysis.operations import OperationCounter, Operations, count_operations, listed_timesteps
from snnconv.analysis.page import page
from snnconv.analysis.robustness import Disturbance, robustness
from snnconv.analysis.spike_trains import spike_trains
from snnconv.data.batches import Batches, first_images
from snnconv.data.loaders import Loader, device_of
from snnconv.data.splits import Splits
from snnconv.runtime import distributed, files
from snnconv.spiking.model import SpikingModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Explanation:
    """Errors, energy and spikes of a converted network, measured on some images; `print` shows a summary."""

    images: int
    role: str  # valid | calibration, of a run; given, of a loader
    timesteps: tuple[int, ...]
    errors: Decomposition | None  # None for a method in which only the first steps receive the image
    advice: list[Advice]
    energy: Energy
    thresholds: dict[str, tuple[float, float]]  # smallest and largest θ of each layer
    robustness: dict[str, dict[str, Any]]  # accuracy of ANN and SNN, by disturbance; empty if none was requested
    trains: dict[str, Tensor]  # spikes [T, neurons] of some neurons, by layer, for one image

    def __str__(self) -> str:
        """Accuracies, the most important advice, and energies, as text."""
        lines = [f"Explanation on {self.images} {self.role} images"]
        if self.errors:
            accuracies = [f"T={t} {100 * self.errors.snn[t]:.1f}" for t in self.timesteps]
            lines.append(f"accuracy in percent: ANN {100 * self.errors.ann:.1f}, SNN {', '.join(accuracies)}")
        return "\n".join([*lines, *(advice.text() for advice in most_important(self.advice)), "", str(self.energy)])

    def to_html(self, path: str | Path, title: str = "Explanation of a converted network") -> Path:
        """Write a self-contained HTML page to `path` and return the path."""
        files.write_text(Path(path), page(self, title))
        return Path(path)

    def summary(self) -> dict[str, Any]:
        """Content for `result.json`: accuracies of all networks, advice, and energy of whole networks."""
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
            "energy": {
                "what": energy["what"],
                "bits": energy["bits"],
                "spike_driven": self.energy.operations.spike_driven,
                "tables": tables,
            },
        }

    def as_dict(self) -> dict[str, Any]:
        """Content for `explanation.json`: the summary, and all layers."""
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
        """Rows by the name of the table: accuracy lost to each error, errors of each layer, energy in µJ, robustness."""
        energy = self.energy
        tables = {
            "energy": [
                {"timesteps": t, "costs": name, "snn": _microjoules(energy.snn(name, t)),
                 "quantized_ann": _microjoules(energy.quantized(name, t)), "ann": _microjoules(energy.ann(name))}
                for name in energy.costs
                for t in self.timesteps
            ]
        }  # fmt: skip
        if self.robustness:
            tables["robustness"] = [
                {"disturbance": name, "ann": each["ann"], **{f"T={t}": value for t, value in each["snn"].items()}}
                for name, each in self.robustness.items()
            ]
        if self.errors is not None:
            tables["accuracy_lost"] = [{"timesteps": t, **self.errors.drops(t)} for t in self.timesteps]
            tables["layer_errors"] = [
                {"timesteps": layer.timesteps, "layer": layer.path, **layer.size, "firing_rate": layer.firing_rate,
                 "saturated": layer.saturated, "silent": layer.silent}
                for layer in self.errors.layers
            ]  # fmt: skip
        return tables


def explain(
    model: nn.Module,
    snn: SpikingModel,
    loader: Any,
    timesteps: int | Sequence[int] = 32,
    *,
    images: int = 500,
    costs: TableNames = DEFAULT,
    first_layer: str = "every_step",
    disturbances: Mapping[str, Disturbance] | None = None,
) -> Explanation:
    """Explain the accuracy of `snn`, converted from `model`, and its energy, on the first `images` samples of `loader`.

    Args:
        model: the ANN; its mode is restored, and its weights are not changed.
        snn: the spiking network that was converted from it.
        loader: an iterable of (inputs [N, …], labels [N]), for example a DataLoader, normalized as in training.  Do not use
            the test images, because you will change settings according to the advice.
        timesteps: the numbers of timesteps T: a list, or a number T for 1, 2, 4, … and T.
        images: largest number of images; the errors need several runs of both networks.
        costs: tables of costs for the energy, as in `energy`.
        first_layer: "every_step" or "once", as in `energy`.
        disturbances: functions of (pixels, gradient) by name (`snnconv.analysis.robustness`); they need
            `snnconv.data.batches.Batches`, which store the range of the pixels.

    Returns an `Explanation`: `print` shows a summary, `to_html(path)` writes a page with all layers.

    ValueError without images, if `snn` was not converted from `model`, or naming an operation on spikes that cannot be counted.

    >>> import torch
    >>> from torch import nn
    >>> from snnconv.conversion.methods import qcfs
    >>> from snnconv.nn.activations.qcfs import QCFS
    >>> from snnconv.spiking.neurons.integrate_fire import IntegrateFire
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 16), QCFS(4, threshold=1.0), nn.Linear(16, 3))
    >>> snn = qcfs.convert(model, [], neuron=IntegrateFire)
    >>> why = explain(model, snn, [(torch.rand(20, 1, 2, 2), torch.arange(20) % 3)], timesteps=[2, 8])
    >>> why.timesteps, why.images, sorted(why.errors.drops(8))
    ((2, 8), 20, ['clipping', 'quantization', 'unevenness'])
    """
    wanted = listed_timesteps(timesteps)
    batches = loader if isinstance(loader, Batches) else Loader(loader, device_of(model))
    model = counterpart(model, snn, batches)
    if disturbances and not isinstance(batches, Batches):
        raise ValueError("disturbances: need the normalization of images, which is known only for data of snnconv (Batches); "
                         "disturb the images of the loader instead")  # fmt: skip
    errors, operations = _measured(model, snn, batches, wanted, images)
    return Explanation(
        images=operations.images,
        role="given",
        timesteps=tuple(wanted),
        errors=errors,
        advice=diagnose(errors, model, wanted) if errors else [],
        energy=Energy(operations, tables_of(costs), first_layer),
        robustness=robustness(model, snn, batches, disturbances, wanted, images)
        if disturbances and isinstance(batches, Batches) and _has_pixels(batches)
        else {},
        thresholds={path: _extremes(neuron.threshold) for path, neuron in snn.neurons().items()},
        trains=spike_trains(snn, batches, max(wanted)),
    )


def _measured(
    model: nn.Module, snn: SpikingModel, batches: Any, wanted: list[int], images: int
) -> tuple[Decomposition | None, Operations]:
    """Errors and operations from the same runs; no errors for a method in which only the first steps receive the image."""
    if snn.timing.presented is not None:
        return None, count_operations(snn, batches, wanted, images=images)
    with torch.random.fork_rng(devices=[]):  # a loader draws numbers when it begins
        examples = first_images(batches, 1)
    if not examples:
        raise ValueError("an explanation is measured on images, but there are none")
    counter = OperationCounter(snn, examples[0])
    errors = decompose(model, snn, batches, wanted, images, counter)
    return errors, counter.operations()


def _has_pixels(batches: Batches) -> bool:
    """Whether inputs are images of bytes, which disturbances can change; the log says if they are not."""
    if batches.highest > 1 and batches.scale.dim() == 3:  # a number for each channel of [C, H, W]
        return True
    log.warning("No robustness: disturbances change images of bytes (uint8) [N, C, H, W], and these inputs are others")
    return False


def explaining(*, images: int, costs: Mapping[str, Costs], **settings: Any) -> Callable[..., Explanation | None]:
    """`explain_run` with these settings; raises a ValueError for settings out of range immediately."""
    if type(images) is not int or images < 0:
        raise ValueError(f"explain.images={images!r}: must be an integer of at least 0; 0 for no explanation")
    if images:
        tables_of(costs)
    if (first := settings.get("first_layer", "every_step")) not in FIRST_LAYER:
        raise ValueError(f"explain.first_layer={first!r}: must be {' or '.join(FIRST_LAYER)}")
    for name, disturb in (settings.get("disturbances") or {}).items():
        if not callable(disturb):
            raise ValueError(f"explain.disturbances: {name}={disturb!r}: must be a function of (pixels, gradient), given by "
                             "_target_ and _partial_: true (conf/explain/robustness.yaml)")  # fmt: skip
    return functools.partial(explain_run, images=images, costs=costs, **settings)


def explain_run(
    ann: nn.Module, snn: SpikingModel, data: Splits, timesteps: Sequence[int], *, images: int, **settings: Any
) -> Explanation | None:
    """`explain` for a run, on validation images, or on calibration images if there are no validation images.

    Test images are not used, because settings are changed according to the advice.  None for `images` = 0 or without images; None
    and a warning if the explanation fails, so that the results of the run are not lost.
    """
    role, batches = ("valid", data.valid) if data.valid.count else ("calibration", data.calibration)
    if not images or not batches.count:
        return None
    try:
        if min(images, batches.count) < distributed.world_size():
            raise ValueError(f"{min(images, batches.count)} images are too few for {distributed.world_size()} processes; "
                             "use more images (explain.images, data.valid) or fewer processes")  # fmt: skip
        batches = copy.copy(batches)
        batches.everywhere = False  # each process takes its part
        return replace(explain(ann, snn, batches, timesteps, images=images, **settings), role=role)
    except ValueError as error:
        log.warning("report.html has no explanation: %s", error)
    except torch.OutOfMemoryError as error:
        if distributed.world_size() > 1:  # the others wait for this one
            raise
        log.warning("report.html has no explanation: %s; try fewer images (explain.images)", error)
    return None


def _microjoules(layers: Mapping[str, float]) -> float:
    return sum(layers.values()) / 1e6


def _extremes(threshold: Any) -> tuple[float, float]:
    values = torch.as_tensor(threshold)
    return float(values.min()), float(values.max())
