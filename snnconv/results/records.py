"""Results of many runs: read, held to what they claim, and gathered into rows that differ in their seed alone."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snnconv.runtime import files
from snnconv.spiking.latency import latency_class

Result = dict[str, Any]  # the content of a result.json, and where it was found, "source"
Sample = tuple[int, str | None]  # a seed, and the weights of the network where they were recorded
NEEDED = (
    "ann_accuracy", "snn_accuracy", "method", "levels", "warmup", "latency", "model", "data", "images_tested", "seed",
    "precision", "wall_seconds",
)  # fmt: skip

NEEDED_OF_BASELINES = ("baseline", "settings", "accuracy", "weight_bits", "activation_bits", "size_bytes", "energy")


def read_results(paths: Iterable[Path]) -> list[Result]:
    """Every `result.json` below the given folders (where there is none: every `results.jsonl`), or in the given files.

    Oldest first.  FileNotFoundError or ValueError name what is missing, damaged or no result.
    """
    found: dict[Path, None] = {}
    for path in paths:
        inside = sorted(path.rglob("result.json")) or sorted(path.rglob("results.jsonl")) if path.is_dir() else [path]
        if not inside or not all(file.is_file() for file in inside):
            raise FileNotFoundError(f"{path}: no result.json or results.jsonl there; it is written when a run ends")
        found |= dict.fromkeys(inside)
    return [result for file in sorted(found, key=lambda file: file.stat().st_mtime) for result in _in_file(file)]


def read_baselines(paths: Iterable[Path]) -> list[Result]:
    """Every `baseline.json` below the given folders (where there is none: every `baselines.jsonl`), or beside the given files.

    Oldest first; with the keys by which `gather` tells results apart, the bits in "method".  ValueError as for `read_results`.
    """
    found: dict[Path, None] = {}
    for path in paths:
        folder = path if path.is_dir() else path.parent
        inside = (sorted(path.rglob("baseline.json")) or sorted(path.rglob("baselines.jsonl"))) if path.is_dir() else []
        found |= dict.fromkeys(inside or [file for file in [folder / "baselines.jsonl"] if file.is_file()])
    needed = (
        *NEEDED_OF_BASELINES,
        *(key for key in NEEDED if key not in ("snn_accuracy", "method", "warmup", "latency")),
    )
    results = [one for file in sorted(found, key=lambda file: file.stat().st_mtime) for one in _in_file(file, needed)]
    for one in results:
        one["method"] = f"{one['baseline']} W{one['weight_bits']}A{one['activation_bits']}"
        own = {key: value for key, value in one["settings"].items() if key not in ("weight_bits", "activation_bits")}
        one |= {"settings": own, "latency": {}}
    return results


def _in_file(path: Path, needed: Sequence[str] = NEEDED) -> list[Result]:
    if path.suffix != ".jsonl":
        return [_checked(files.read_json(path), str(path), needed)]
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            results.append(_checked(json.loads(line), f"{path}:{number}", needed))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: damaged, no valid JSON ({error})") from error
    return results


def _checked(content: Any, source: str, needed: Sequence[str]) -> Result:
    missing = [key for key in needed if key not in content] if isinstance(content, Mapping) else ["everything"]
    if missing:
        raise ValueError(f"{source}: lacks {', '.join(missing)}; no result of snnconv")
    return {**content, "source": source}


def contradictions(result: Result) -> list[str]:
    """Where a run did what its latency class rules out, a sentence each; what an older file does not tell is not checked."""
    latency, emitted, found = result["latency"], result.get("emitted"), []
    if latency["warmup"] != result["warmup"]:
        found.append(f"claims τ = {latency['warmup']}, but ran with τ = {result['warmup']}")
    if emitted and emitted["least"] < 0 and not latency["signed"]:
        found.append(f"claims unsigned spikes, but a neuron emitted {emitted['least']} in one step")
    if emitted and (most := max(emitted["most"], -emitted["least"])) > latency["spike_levels"]:
        found.append(f"claims at most {latency['spike_levels']} spikes a step, but a neuron emitted {most}")
    return found


def require_honest(results: Iterable[Result]) -> None:
    """ValueError naming every run whose latency class is contradicted by what it did."""
    lies = [f"{result['source']}: {result['method']} {text}" for result in results for text in contradictions(result)]
    if lies:
        raise ValueError("\n".join([*lies, "Mend the method's Latency, evaluate again, and remove the old result."]))


@dataclass(frozen=True)
class Row:
    """Results that differ in their seed alone, one for each."""

    comparison: tuple[Any, ...]  # only rows in which this is equal can be compared
    results: tuple[Result, ...]
    label: str  # the method, with the settings that tell it from other rows of the comparison

    @property
    def one(self) -> Result:
        """One of the results, for what they share."""
        return self.results[-1]

    @property
    def latency_class(self) -> str:
        """As `latency_class` has it."""
        return latency_class(self.one["latency"])

    @property
    def seeds(self) -> list[int]:
        """Of the results, each once."""
        return sorted({result["seed"] for result in self.results})

    @property
    def timesteps(self) -> list[int]:
        """Every T of some result."""
        return sorted({int(t) for result in self.results for t in result["snn_accuracy"]})

    def at(self, t: int, key: str = "snn_accuracy") -> list[float]:
        """At T = t, one for each result that has it: "snn_accuracy", "spikes_per_image", "gap" (ANN − SNN), or the "seed"."""
        if key == "seed":
            return [result["seed"] for result in self.results if str(t) in result["snn_accuracy"]]
        if key == "gap":
            return [result["ann_accuracy"] - result["snn_accuracy"][str(t)] for result in self.results
                    if str(t) in result["snn_accuracy"]]  # fmt: skip
        return [result[key][str(t)] for result in self.results if str(t) in (result.get(key) or {})]

    def seconds(self, *stages: str) -> float:
        """Mean wall time of the stages together."""
        return statistics.fmean(sum(result["wall_seconds"][stage] for stage in stages) for result in self.results)


def comparison(result: Result) -> tuple[Any, ...]:
    """What results must share to be compared: data, model, activation, L, images, selection, precision, and the network.

    Networks are the same if one recipe trained them, whatever the seed; those that nothing trained, if their weights are.
    (Results older than these facts are told apart by the others alone.)
    """
    network = result.get("network") or {}
    shared = [result[key] for key in ("data", "model", "levels", "images_tested")]
    return (
        *shared,
        precision(result),
        result.get("select"),
        network.get("activation"),
        network.get("recipe") or network.get("weights"),
    )


def sample(result: Result) -> Sample:
    """The seed and the trained network: a method counts once on each."""
    return result["seed"], (result.get("network") or {}).get("weights")


def precision(result: Result) -> str:
    """That of the simulation: bf16 is a setting of its own, tf32 one of the device."""
    simulated = (result.get("simulate") or {}).get("precision") or result["precision"]
    return "bf16" if simulated == "bf16" else "tf32" if result["precision"] == "tf32" else "float32"


def settings(result: Result) -> dict[str, Any]:
    """What the method was told, images to calibrate with included, and bits of the weights that it converts.

    None is as good as nothing, which is what results from before a setting have.
    """
    weights = result.get("weights") or {}
    bits = {f"weights.{name}": weights.get(name) for name in ("bits", "per_channel")}
    told = {name: value for name, value in (result.get("settings") or {}).items() if value is not None}
    return {**told, "data.calibration": result.get("calibration_images"), **bits}


def gather(results: Iterable[Result]) -> list[Row]:
    """Rows over seeds, in the order of comparison, method and settings.

    Of what was evaluated more than once (network, seed, method, settings) the last result counts, at every T.
    """
    groups: dict[str, dict[Any, Result]] = defaultdict(dict)
    for result in results:
        key = json.dumps([comparison(result), result["method"], settings(result), result["latency"]], sort_keys=True)
        which = sample(result)
        before = groups[key].get(which, {})
        curves = {
            name: {**(before.get(name) or {}), **(result.get(name) or {})}
            for name in ("snn_accuracy", "spikes_per_image")
        }
        groups[key][which] = {**result, **curves}
    found = [tuple(samples.values()) for _, samples in sorted(groups.items())]
    return [Row(comparison(row[0]), row, _label(row[0], [other[0] for other in found])) for row in found]


def _label(result: Result, others: Sequence[Result]) -> str:
    """The method's name, and those of its settings in which it is not always the same among comparable results.

    What was trained after conversion says for which T.
    """
    rivals = [
        other for other in others if comparison(other) == comparison(result) and other["method"] == result["method"]
    ]
    own = settings(result)
    differing = [
        f"{key}={value}"
        for key, value in own.items()
        if any(settings(other).get(key) != value for other in rivals)
        or (key == "timesteps" and result["latency"].get("needs_training") == "weights")
    ]
    return f"{result['method']} ({', '.join(differing)})" if differing else str(result["method"])
