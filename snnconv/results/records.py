"""Typed content of `result.json`, `baseline.json` and `integer.json`, and how these files are read.

Keys are never renamed.  New keys are fields with a default, so older files can still be read.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from snnconv.runtime import files

Curve = Mapping[int, float]  # a value at each T; the keys are strings in JSON
R = TypeVar("R", bound="Record")


@dataclass(frozen=True, kw_only=True)
class Record:
    """Facts that every result file holds.  Fields without a default are required when a file is read."""

    curves: ClassVar[tuple[str, ...]] = ()  # fields of type Curve

    seed: int
    network: Mapping[str, Any] | None = None  # `Run.network`: hashes of weights and recipe, activation
    weights: Mapping[str, Any] | None = None  # bits and scales of quantized weights; None: float
    device: str | None = None
    threads: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    command: str = ""
    source: str = ""  # file (and line) that the record was read from; not written
    others: Mapping[str, Any] = field(default_factory=dict)  # keys of other versions, written as they were read

    @classmethod
    def from_dict(cls: type[R], content: Any, source: str = "") -> R:
        """The record in a parsed JSON object; ValueError names `source` and the required keys that are missing."""
        known_fields = {each.name: each for each in fields(cls) if each.name not in ("source", "others")}
        required = [name for name, each in known_fields.items() if each.default is each.default_factory is MISSING]
        if not isinstance(content, Mapping):
            raise ValueError(f"{source}: contains no JSON object; not a result of snnconv")
        if missing := [name for name in required if name not in content]:
            raise ValueError(f"{source}: has no {', '.join(missing)}; not a result of snnconv")
        values = {name: content[name] for name in known_fields if name in content}
        for name in cls.curves:
            values[name] = {int(t): value for t, value in (values.get(name) or {}).items()}
        others = {name: value for name, value in content.items() if name not in known_fields and name != "source"}
        return cls(**values, source=source, others=others)

    def as_dict(self) -> dict[str, Any]:
        """The content of the JSON file."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("source", "others")}
        for name in self.curves:
            values[name] = {str(t): value for t, value in values[name].items()}
        return {**self.others, **values}


@dataclass(frozen=True, kw_only=True)
class Evaluation(Record):
    """Accuracy of a network that a table can compare with others."""

    levels: int
    model: str
    data: str
    images_tested: int
    precision: str
    ann_accuracy: float
    wall_seconds: Mapping[str, float]  # by stage: data, check, train, convert, evaluate, explain
    settings: Mapping[str, Any] | None = None  # of the method or baseline, as `method_settings` has them
    calibration_images: int | None = None
    select: str | None = None  # which epoch was kept: best | last | test
    task: str | None = None  # None: classify
    score: str | None = None  # name of what accuracies hold: a mean score, at most 1; None: accuracy
    metrics: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # by name: ann, snn by T (or quantized), higher_is_better, percent

    @property
    def name(self) -> str:
        """The method or baseline, without settings."""
        raise NotImplementedError

    @property
    def primary(self) -> str | None:
        """The metric that ranks: the first one, None where there is only the score."""
        return next((name for name in self.metrics if "/" not in name), None)

    @property
    def higher_is_better(self) -> bool:
        """Of what ranks."""
        return self.primary is None or bool(self.metrics[self.primary]["higher_is_better"])

    @property
    def percent(self) -> bool:
        """Whether what ranks is shown times 100."""
        return self.primary is None or bool(self.metrics[self.primary]["percent"])

    @property
    def ann_ranking(self) -> float:
        """The value that ranks of the ANN."""
        return self.ann_accuracy if self.primary is None else self.metrics[self.primary]["ann"]

    @property
    def quantization(self) -> str:
        """ ", L = 4", or "" for a network without quantized activations."""
        network = self.network or {}
        continuous = network["levels"] is None if "levels" in network else network.get("activation") == "ReLU"
        return "" if continuous else f", L = {self.levels}"

    @property
    def own_settings(self) -> dict[str, Any]:
        """`settings` that are not part of `name`.  Settings that are None are dropped, as in older results."""
        return {key: value for key, value in (self.settings or {}).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Result(Evaluation):
    """One evaluation of a spiking network: `result.json`."""

    curves: ClassVar[tuple[str, ...]] = ("snn_accuracy", "spikes_per_image")

    snn_accuracy: Curve  # fraction of test images, by T
    method: str
    warmup: int  # steps before the first counted one
    latency: Mapping[str, Any]  # `Latency.as_dict`
    timesteps: int | None = None  # the largest T
    spikes_per_image: Curve = field(default_factory=dict)  # up to T, warm-up included
    emitted: Mapping[str, int] | None = None  # least and most spikes of one neuron in one step
    firing_rate: Mapping[str, Any] = field(
        default_factory=dict
    )  # spikes per neuron and step: mean, `layers`, `by_timesteps`
    layers: list[Mapping[str, Any]] = field(default_factory=list)  # as `spiking.layers.list_layers` lists them
    confusion: Mapping[str, Any] | None = None  # timesteps, names of `classes`; `ann` and `snn` as `Confusion.as_dict`
    changed_predictions: float | None = None  # share that differs from float32 at the last T
    exit: Mapping[str, Any] | None = None  # `EarlyExit.as_dict`
    explanation: Mapping[str, Any] | None = None  # `Explanation.summary`
    exports: Mapping[str, str] | None = None  # by format: "allowed", or the reason why not
    compression: Mapping[str, Any] | None = None  # stages, sizes and costs of a compressed network
    baselines: list[Mapping[str, Any]] = field(default_factory=list)  # quantized ANNs of the same network
    trained_with: list[str] | None = None  # overrides of the run that trained the network
    ann_relu_accuracy: float | None = None
    compile: bool | None = None
    simulate: Mapping[str, Any] | None = None
    neuron_implementation: str | None = None
    convolutions: Any = None

    @property
    def name(self) -> str:
        """The method."""
        return self.method

    @property
    def ranking(self) -> Curve:
        """The value that ranks, by T: the first metric, or the score."""
        if self.primary is None:
            return self.snn_accuracy
        return {int(t): value for t, value in self.metrics[self.primary]["snn"].items()}


@dataclass(frozen=True, kw_only=True)
class Baseline(Evaluation):
    """One quantized ANN without spikes: `baseline.json`."""

    baseline: str
    accuracy: float
    weight_bits: int
    activation_bits: int
    size_bytes: float
    energy: Mapping[str, float] | None  # pJ for one image, by table of costs
    float_bytes: float | None = None
    ann_energy: Mapping[str, float] | None = None
    energy_rule: str | None = None

    @property
    def ranking(self) -> float:
        """The value that ranks: the first metric, or the score."""
        return self.accuracy if self.primary is None else self.metrics[self.primary]["quantized"]

    @property
    def name(self) -> str:
        """The baseline and its bits."""
        return f"{self.baseline} W{self.weight_bits}A{self.activation_bits}"

    @property
    def own_settings(self) -> dict[str, Any]:
        """Settings but the bits."""
        return {k: v for k, v in super().own_settings.items() if k not in ("weight_bits", "activation_bits")}


@dataclass(frozen=True, kw_only=True)
class IntegerResult(Record):
    """One integer spiking network, and the float network: `integer.json`."""

    accuracy: Mapping[str, Mapping[str, float]]  # of "integer", and of "float" where it was simulated; by T
    golden: Mapping[str, int]  # images compared with the golden model, differing spikes
    integer: Mapping[str, Any]  # settings of `integerize`
    membrane_bits: Mapping[str, int]  # by layer
    weight_bytes: float
    float_bytes: float
    levels: int | None = None
    model: str | None = None
    data: str | None = None
    images_tested: int | None = None
    precision: str | None = None
    method: str | None = None
    extremes: Mapping[str, Any] | None = None
    margin_bits: Any = None
    membrane_bits_bound: Mapping[str, int] | None = None  # bits that no image exceeds, by layer
    current_bits_bound: Mapping[str, int] | None = None  # likewise, of the sums of one step
    requantized_bits: Any = None
    task: str | None = None  # None: classify
    score: str | None = None  # as in Evaluation
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by name: integer and float, by T


def read_results(paths: Iterable[Path]) -> list[Result]:
    """Every `result.json` below the given folders (where there is none: every `results.jsonl`), or in the given files.

    Oldest first.  FileNotFoundError, or ValueError naming a file that is damaged or not a result.
    """
    sources: dict[Path, None] = {}
    for path in paths:
        inside = sorted(path.rglob("result.json")) or sorted(path.rglob("results.jsonl")) if path.is_dir() else [path]
        if not inside or not all(file.is_file() for file in inside):
            raise FileNotFoundError(f"{path}: contains no result.json or results.jsonl; it is written when a run ends")
        sources |= dict.fromkeys(inside)
    return _read(Result, sources)


def read_baselines(paths: Iterable[Path]) -> list[Baseline]:
    """Every `baseline.json` below the given folders (where there is none: every `baselines.jsonl`), or beside the given files.

    Oldest first; ValueError as for `read_results`.
    """
    sources: dict[Path, None] = {}
    for path in paths:
        folder = path if path.is_dir() else path.parent
        inside = (sorted(path.rglob("baseline.json")) or sorted(path.rglob("baselines.jsonl"))) if path.is_dir() else []
        sources |= dict.fromkeys(inside or [file for file in [folder / "baselines.jsonl"] if file.is_file()])
    return _read(Baseline, sources)


def _read(kind: type[R], sources: Iterable[Path]) -> list[R]:
    return [record for file in sorted(sources, key=lambda file: file.stat().st_mtime) for record in read(kind, file)]


def read(kind: type[R], path: Path) -> list[R]:
    """The records of one file: one of `.json`, any number of `.jsonl`; ValueError naming a line that is not such a record."""
    if path.suffix != ".jsonl":
        return [kind.from_dict(files.read_json(path), str(path))]
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            records.append(kind.from_dict(json.loads(line), f"{path}:{number}"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: damaged, not valid JSON ({error})") from error
    return records
