"""The content of result.json, and of the accuracy-vs-timesteps table."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from snnconv.results.records import Result
from snnconv.runtime import environment
from snnconv.spiking.curve import Curve
from snnconv.spiking.latency import latency_class
from snnconv.spiking.measured import Measured
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.tasks import Task


def summarize(
    cfg: DictConfig,
    snn: SpikingModel,
    curve: Curve,
    ann: Measured,
    seconds: Mapping[str, float],
    **facts: Any,
) -> Result:
    """The result of one evaluation; `facts` are further fields of `Result`."""
    return Result(
        **environment.provenance(cfg.seed, cfg.device, cfg.precision),
        ann_accuracy=ann.accuracy,
        snn_accuracy=curve.accuracy,
        method=cfg.names.method,
        settings=method_settings(OmegaConf.to_container(cfg.method, resolve=True)) | snn.facts,  # type: ignore[arg-type]
        calibration_images=cfg.data.get("calibration"),
        levels=cfg.levels,
        weights=stored_weights(cfg),
        select=cfg.fit.select,
        timesteps=max(curve.correct),
        warmup=snn.latency.warmup,
        latency=snn.latency.as_dict(),
        model=cfg.names.model,
        data=cfg.names.data,
        images_tested=curve.images,
        compile=cfg.compile,
        simulate=OmegaConf.to_container(cfg.simulate, resolve=True),  # type: ignore[arg-type]
        neuron_implementation=snn.implementation(),
        convolutions=snn.convolutions(),
        **task_facts(snn.task),
        metrics=metrics(snn, curve, ann.metrics, cfg.data.get("class_names")),
        changed_predictions=curve.changed_predictions,
        spikes_per_image=curve.spikes,
        emitted={"least": curve.emitted[0], "most": curve.emitted[1]},
        firing_rate={
            "mean": curve.mean_firing_rate,
            "layers": curve.firing_rate,
            "by_timesteps": {str(t): rates.mean for t, rates in curve.rates.items()},
        },
        confusion=confusion(curve, ann, cfg.data.get("class_names")),
        wall_seconds={stage: round(value, 3) for stage, value in seconds.items()},
        **facts,
    )


def metrics(
    snn: SpikingModel, curve: Curve, ann: Mapping[str, float], classes: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """For `result.json`: of each metric the ANN's value, the SNN's by T, its direction, and whether it is shown in percent."""
    content = {}
    for key, values in curve.metrics.items():
        name, _, number = key.partition("/")
        label = f"{name}/{classes[int(number)]}" if number and classes else key
        measure = snn.task.metrics[name]
        content[label] = {
            "ann": ann.get(key),
            "snn": {str(t): value for t, value in values.items()},
            **measure.as_dict(),
        }
    return content


def task_facts(task: Task, **values: Mapping[str, Any]) -> dict[str, Any]:
    """The task and its score, for any result file, and `metrics` with the `values` of several networks, by name of the metric."""
    other = task.name != "classify"
    facts: dict[str, Any] = {"task": task.name if other else None, "score": task.score if other else None}
    if values:
        facts["metrics"] = {
            key: {name: each[key] for name, each in values.items()} | task.metrics[key.partition("/")[0]].as_dict()
            for key in next(iter(values.values()))
        }
    return facts


def confusion(curve: Curve, ann: Measured, classes: Sequence[str] | None) -> dict[str, Any] | None:
    """For `result.json`: images, right and wrong predictions by class, of the ANN, and of the SNN at the last T."""
    if curve.confusion is None or ann.confusion is None:
        return None
    names = dict(enumerate(classes or ()))
    return {
        "timesteps": max(curve.correct),
        "classes": [str(names.get(number, number)) for number in range(len(curve.confusion.images))],
        "ann": ann.confusion.as_dict(),
        "snn": curve.confusion.as_dict(),
    }


def stored_weights(cfg: DictConfig) -> dict[str, Any] | None:
    """Format of the weights, None for floats; `train` is true if the training used them in this format."""
    if cfg.weights.bits is None:
        return None
    trained = bool(cfg.weights.train and cfg.fit.epochs)
    layers = (
        {"layers": {str(key): bits for key, bits in cfg.weights.layers.items()}} if cfg.weights.get("layers") else {}
    )
    return {"bits": cfg.weights.bits, "per_channel": cfg.weights.per_channel, "train": trained, **layers}


AUTO = {"_target_": "snnconv.spiking.operators.choice.auto", "_partial_": True}  # conf/operators/auto.yaml
NOT_OF_A_METHOD = (
    "_target_",
    "_partial_",
    "_recursive_",
    "simulate",
    "data",
    "task",
    "encoder",
    "seed",
    "precision",
    "compile",
    "save",
    "load",
    "start",
    "teacher",
)


def method_settings(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method's own settings, flat: {"warmup": 8, "rule": "percentile", "rule.percent": 99.9}.

    Simulation, data, seed and files are left out; the model's `facts` describe what came from files.  Operators are listed where
    they differ from the default: results of older versions have no such setting.
    """
    settings: dict[str, Any] = {}
    for key, value in method.items():
        if key in NOT_OF_A_METHOD or (key, value) == ("operators", AUTO):
            continue
        if isinstance(value, Mapping):
            if "_target_" in value:
                module, _, name = value["_target_"].rpartition(".")
                settings[key] = module.rpartition(".")[2] if name == "convert" else name
            settings |= {f"{key}.{name}": inner for name, inner in method_settings(value).items()}
        else:
            settings[key] = value
    return settings


def title_of(result: Result) -> str:
    """Network, data and method in words, with the latency class unless it is plain, and L if the network has levels."""
    hidden = latency_class(result.latency)
    smaller = "".join(f" {stage}" for stage in (result.compression or {}).get("stages", []))
    return f"{result.model}{smaller} on {result.data}{result.quantization}, {result.method}" + (
        f" ({hidden})" if hidden != "plain" else ""
    )


def table_rows(
    accuracy: Mapping[int, float], ann_accuracy: float, metrics: Mapping[str, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """One row a timestep: T, accuracy, the ANN's accuracy, and the gap between them (ANN − SNN); and each of the `metrics`."""
    return [
        {"timesteps": t, "accuracy": value, "ann_accuracy": ann_accuracy, "gap": ann_accuracy - value}
        | {name: each["snn"][str(t)] for name, each in (metrics or {}).items()}
        for t, value in accuracy.items()
    ]


def rate_rows(curve: Curve) -> list[dict[str, Any]]:
    """One row a timestep: T, spikes of one image up to T, the mean firing rate, and that of each layer."""
    return [
        {"timesteps": t, "spikes_per_image": curve.spikes[t], "firing_rate": rates.mean, **rates.layers}
        for t, rates in curve.rates.items()
    ]


def shown(value: float | None, percent: bool) -> str:
    """A value of a metric for a table."""
    return "–" if value is None else f"{100 * value:.2f} %" if percent else f"{value:.4g}"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with equal keys as CSV text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def shown_timesteps(timesteps: Sequence[int]) -> list[int]:
    """Timesteps that a table shows: every T of a list; of a complete curve 1…T the powers of two and the last."""
    if list(timesteps) != list(range(1, len(timesteps) + 1)):
        return list(timesteps)
    return [t for t in timesteps if t & (t - 1) == 0 or t == timesteps[-1]]
