"""Task and encoder of a spiking network as plain data, for `save` and `load`."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from snnconv.spiking.encoders.base import InputEncoder
from snnconv.spiking.encoders.direct import Direct
from snnconv.spiking.encoders.frames import Frames
from snnconv.spiking.encoders.phase import Phase
from snnconv.spiking.encoders.poisson import Poisson
from snnconv.spiking.encoders.ttfs import TimeToFirstSpike
from snnconv.spiking.metrics import Measure, measure
from snnconv.spiking.tasks import TASKS, Classify, Task

log = logging.getLogger(__name__)
ENCODERS: dict[str, type[InputEncoder]] = {e.name: e for e in (Direct, Frames, Phase, Poisson, TimeToFirstSpike)}
STORED = (
    "torchmetrics.classification.",
    "torchmetrics.regression.",
)  # metrics that compute with nothing but their options


def describe_task(task: Task) -> dict[str, Any]:
    """The name and the settings of a task; ValueError naming what cannot be stored."""
    if TASKS.get(task.name) is not type(task) or not type(task).__module__.startswith("snnconv."):
        raise ValueError(f"task {type(task).__name__}: only the tasks of snnconv are stored ({', '.join(TASKS)})")
    settings = {field.name: getattr(task, field.name) for field in fields(task)}
    metrics = {name: _describe_metric(name, each) for name, each in task.metrics.items()}
    return {"name": task.name, **settings, "metrics": metrics}


def _describe_metric(name: str, each: Measure) -> dict[str, Any]:
    if each.name is None or not type(each.metric).__module__.startswith(STORED):
        raise ValueError(f"metric {name}: cannot be stored; make it by snnconv.spiking.metrics.measure from one of torchmetrics' "
                         "classes of classification or regression, or store the model without it: snn.for_task(…)")  # fmt: skip
    return {"name": each.name, "options": {**each.options}, "percent": each.percent}


def stored_task(description: Mapping[str, Any]) -> Task:
    """The task in the description of a network; files of older versions hold none."""
    if "task" not in description:
        return Classify(readout=description["latency"].get("readout", "mean"))
    settings = dict(description["task"])
    kind = TASKS[settings.pop("name")]
    metrics = {name: _stored_metric(name, each) for name, each in settings.pop("metrics").items()}
    return kind(**settings, metrics=metrics)


def _stored_metric(name: str, stored: Mapping[str, Any]) -> Measure:
    each = measure(stored["name"], stored["percent"], **stored["options"])
    _describe_metric(name, each)
    return each


def describe_encoder(encoder: InputEncoder) -> dict[str, Any]:
    """The name and the settings of an encoder; ValueError for one that is not of snnconv."""
    if ENCODERS.get(encoder.name) is not type(encoder):
        raise ValueError(
            f"encoder {type(encoder).__name__}: only the encoders of snnconv are stored ({', '.join(ENCODERS)})"
        )
    return {"name": encoder.name, **encoder.settings()}


def stored_encoder(description: Mapping[str, Any]) -> InputEncoder:
    """The encoder in the description of a network; files of older versions hold none."""
    if "encoder" in description:
        settings = dict(description["encoder"])
        return ENCODERS[settings.pop("name")](**settings)
    name = description["latency"].get("encoding", "direct")
    if name == "frames":
        return Frames(keep_axis=True)
    if name != "direct":
        log.warning(
            "this file does not hold its encoder (%s), so its inputs are sent directly; use snn.encoded(…)", name
        )
    return Direct()
