"""Rows of tables: results that differ only in their seed, grouped and labelled."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from snnconv.results.records import Baseline, Evaluation, Result
from snnconv.spiking.latency import Latency, latency_class

E = TypeVar("E", bound=Evaluation)
Sample = tuple[int, str | None]  # a seed, and the weights of the network where they were recorded


@dataclass(frozen=True)
class Row(Generic[E]):
    """Results that differ in their seed alone, one for each network."""

    comparison: tuple[Any, ...]  # only rows in which this is equal can be compared
    results: tuple[E, ...]
    label: str  # the method, with the settings that tell it from other rows of the comparison

    @property
    def one(self) -> E:
        """One of the results, for the facts that they share."""
        return self.results[-1]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the results, each once."""
        return sorted({result.seed for result in self.results})

    def seconds(self, stage: str) -> float:
        """Mean wall time of a stage."""
        return statistics.fmean(result.wall_seconds[stage] for result in self.results)


class SpikingRow(Row[Result]):
    """A row of spiking networks, with values at each T."""

    @property
    def latency_class(self) -> str:
        """As `latency_class` has it."""
        return latency_class(self.one.latency)

    @property
    def timesteps(self) -> list[int]:
        """Every T at which at least one of the results was evaluated."""
        return sorted({t for result in self.results for t in result.snn_accuracy})

    def at(self, t: int) -> list[Result]:
        """The results that were evaluated at T = t."""
        return [result for result in self.results if t in result.snn_accuracy]

    def accuracy(self, t: int) -> list[float]:
        """The value that ranks (`Result.ranking`) of the SNN at T = t, one value for each of `at(t)`."""
        return [result.ranking[t] for result in self.at(t)]

    def ann(self) -> list[float]:
        """The same of the ANN, one value for each result."""
        return [result.ann_ranking for result in self.results]

    def gap(self, t: int) -> list[float]:
        """ANN − SNN at T = t, one value for each of `at(t)`."""
        return [result.ann_ranking - result.ranking[t] for result in self.at(t)]

    def spikes(self, t: int) -> list[float]:
        """Spikes per image up to T = t, of the results that recorded them."""
        return [result.spikes_per_image[t] for result in self.results if t in result.spikes_per_image]


def gather(results: Iterable[Result]) -> list[SpikingRow]:
    """Rows over seeds, in the order of comparison, method and settings.

    A network that was evaluated more than once with one method and settings counts once: at every T, with its last value.
    """
    groups = _grouped(results, lambda result: [result.method, settings(result), _latency(result)])
    merged = [tuple(_merged(same) for same in samples.values()) for samples in groups]
    return [SpikingRow(comparison(row[0]), row, label) for row, label in zip(merged, _labels(merged), strict=True)]


def gather_baselines(baselines: Iterable[Baseline]) -> list[Row[Baseline]]:
    """The same for quantized ANNs; of a network that was evaluated more than once, the last result counts."""
    groups = _grouped(baselines, lambda baseline: [baseline.name, settings(baseline), {}])
    last = [tuple(same[-1] for same in samples.values()) for samples in groups]
    return [Row(comparison(row[0]), row, label) for row, label in zip(last, _labels(last), strict=True)]


def _grouped(results: Iterable[E], facts: Any) -> list[dict[Sample, list[E]]]:
    """Results with equal comparison and `facts`, by network, in a stable order."""
    groups: dict[str, dict[Sample, list[E]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        key = json.dumps([comparison(result), *facts(result)], sort_keys=True)
        groups[key][sample(result)].append(result)
    return [samples for _, samples in sorted(groups.items())]


def _latency(result: Result) -> dict[str, Any]:
    """The latency with defaults for fields that are newer than the result."""
    return Latency().as_dict() | dict(result.latency)


def _merged(results: Sequence[Result]) -> Result:
    """The last result, with the values of earlier ones at the T that later ones lack."""
    accuracy: dict[int, float] = {}
    spikes: dict[int, float] = {}
    metrics: dict[str, dict[str, Any]] = {}
    for result in results:
        accuracy |= result.snn_accuracy
        spikes |= result.spikes_per_image
        for name, metric in result.metrics.items():
            metrics[name] = {**metric, "snn": {**metrics.get(name, {}).get("snn", {}), **metric["snn"]}}
    return replace(results[-1], snn_accuracy=accuracy, spikes_per_image=spikes, metrics=metrics)


def comparison(result: Evaluation) -> tuple[Any, ...]:
    """Facts that must be equal to compare results: data, model, activation, L, images, selection, precision, metric, network.

    Networks are the same if they were trained with the same recipe (for any seed); untrained networks, if their weights are equal.
    (Older results without these facts are distinguished only by the other facts.)
    """
    network = result.network or {}
    return (
        result.data,
        result.model,
        result.levels,
        result.images_tested,
        precision(result),
        result.select,
        *([result.task, result.primary] if result.task or result.primary else []),
        network.get("activation"),
        network.get("recipe") or network.get("weights"),
    )


def sample(result: Evaluation) -> Sample:
    """The seed and the trained network: a method counts once on each."""
    return result.seed, (result.network or {}).get("weights")


def precision(result: Evaluation) -> str:
    """Precision of the simulation: bf16 is one of its own settings, tf32 one of the device."""
    simulate = result.simulate if isinstance(result, Result) else None
    if ((simulate or {}).get("precision") or result.precision) == "bf16":
        return "bf16"
    return "tf32" if result.precision == "tf32" else "float32"


def settings(result: Evaluation) -> dict[str, Any]:
    """Settings of the method, number of calibration images, and bits of the weights that were converted."""
    weights = result.weights or {}
    bits = {f"weights.{name}": weights.get(name) for name in ("bits", "per_channel")}
    return {**result.own_settings, "data.calibration": result.calibration_images, **bits}


def _labels(rows: Sequence[tuple[E, ...]]) -> list[str]:
    firsts = [row[0] for row in rows]
    return [_label(one, [other for other in firsts if comparison(other) == comparison(one)]) for one in firsts]


def _label(result: Evaluation, comparable: Iterable[Evaluation]) -> str:
    """The method's name, and those of its settings in which it is not always the same among comparable results.

    A method that trained after conversion is labelled with its T.
    """
    rivals = [settings(other) for other in comparable if other.name == result.name]
    trained = isinstance(result, Result) and result.latency.get("needs_training") == "weights"
    differing = [
        f"{key}={value}"
        for key, value in settings(result).items()
        if any(other.get(key) != value for other in rivals) or (key == "timesteps" and trained)
    ]
    return f"{result.name} ({', '.join(differing)})" if differing else result.name


def contradictions(result: Result) -> list[str]:
    """Sentences about facts of a run that contradict its latency class; facts that are missing in older files are not checked."""
    latency, emitted, sentences = result.latency, result.emitted, []
    if latency["warmup"] != result.warmup:
        sentences.append(f"claims τ = {latency['warmup']}, but ran with τ = {result.warmup}")
    if emitted and emitted["least"] < 0 and not latency["signed"]:
        sentences.append(f"claims unsigned spikes, but a neuron emitted {emitted['least']} in one step")
    if emitted and (most := max(emitted["most"], -emitted["least"])) > latency["spike_levels"]:
        sentences.append(f"claims at most {latency['spike_levels']} spikes a step, but a neuron emitted {most}")
    return sentences


def require_honest(results: Iterable[Result]) -> None:
    """Raise a ValueError naming every run whose facts contradict its latency class."""
    lies = [f"{result.source}: {result.method} {text}" for result in results for text in contradictions(result)]
    if lies:
        raise ValueError("\n".join([*lies, "Correct the method's Latency, evaluate again, and remove the old result."]))
