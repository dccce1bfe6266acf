"""Markdown tables of many results: of a study, of quantized ANNs, of explanations; and their shared formatting."""

import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from snnconv.results.records import Baseline, Result
from snnconv.results.rows import Row, SpikingRow, gather
from snnconv.runtime import files

TIMES = (1, 2, 4, 8, 16, 32, 64, 128)  # the T that a wide table shows; the CSV has all
PLAIN = {"warmup": 0, "waits": False, "spike_levels": 1, "signed": False, "readout_from": 1, "needs_training": "none"}
Published = Mapping[str, Any]


def mean_std(values: Sequence[float], percent: bool = True) -> str:
    """Mean ± standard deviation, by default in percent; the mean alone for a single run, a dash for none."""
    if not values:
        return "–"
    scale, form = (100, ".2f") if percent else (1, ".4g")
    mean = f"{scale * statistics.fmean(values):{form}}"
    return f"{mean} ± {scale * statistics.stdev(values):{form}}" if len(values) > 1 else mean


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for GitHub."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def read_published(study: Path) -> list[Published]:
    """The published figures shown beside a study (`published.json`, if there is one); ValueError if one lacks its source.

    Each is an object with "method", "snn_accuracy" {"T": fraction} and "source"; "ann_accuracy" and "latency" if known; and
    those of "data", "model", "activation", "levels" that a leaderboard must have to show it.
    """
    path = study / "published.json"
    entries = files.read_json(path) if path.is_file() else []
    for number, entry in enumerate(entries, 1):
        missing = [key for key in ("method", "snn_accuracy", "source") if not entry.get(key)]
        if missing:
            raise ValueError(f"{path}: entry {number} has no {', '.join(missing)}; a published result needs its source")
    return entries


def table(results: Iterable[Result], published: Sequence[Published] = ()) -> str:
    """Markdown for a study: one row for the runs that differ in their seed alone; T = counted timesteps, τ = warm-up."""
    rows = gather(results)
    times = shown_times(rows)
    trained = _training_settings(rows)
    head = [
        "data",
        "model",
        "L",
        *(["training"] if trained else []),
        "method",
        "τ",
        "ANN",
        *(f"T={t}" for t in times),
        "seeds",
        "train s",
    ]
    lines = []
    for number, row in enumerate(rows):
        one = row.one
        cells = [
            one.data,
            one.model,
            str(one.levels),
            *([trained[number]] if trained else []),
            row.label,
            str(one.warmup),
        ]
        cells += [
            mean_std(row.ann(), one.percent),
            *(mean_std(row.accuracy(t), one.percent) for t in times),
        ]
        lines.append([*cells, str(len(row.seeds)), f"{row.seconds('train'):.0f}"])
    for entry in published:
        tau = str(entry.get("latency", PLAIN)["warmup"])
        about = [str(entry.get(key, "–")) for key in ("data", "model", "levels")] + (["–"] if trained else [])
        lines.append([*about, cited(entry), tau, *published_accuracies(entry, times), "–", "–"])
    return markdown(head, lines)


def _training_settings(rows: Sequence[SpikingRow]) -> list[str]:
    """Training overrides that not all rows have, for each row; empty unless rows differ in these alone.

    They are the overrides of the run that trained; a later evaluation or `resume` does not repeat them.
    """
    alike = [(row.one.data, row.one.model, row.one.levels, row.label) for row in rows]
    if len(set(alike)) == len(alike):
        return []
    words = [shlex.split(row.one.command) if row.one.trained_with is None else row.one.trained_with for row in rows]
    given = [{word for word in each if word.startswith(("fit.", "calibration"))} for each in words]
    common = set.intersection(*(words for words in given if words)) if any(given) else set()
    return [", ".join(sorted(word.removeprefix("fit.") for word in words - common)) or "–" for words in given]


def quantized_table(rows: Sequence[Row[Baseline]]) -> str:
    """Markdown: quantized ANNs of one network, the most accurate first; mean and deviation over seeds."""
    tables = list(dict.fromkeys(name for row in rows for name in row.one.energy or {}))
    head = ["quantized ANN", "accuracy", "ANN", "gap", "KiB", *(f"µJ {name}" for name in tables), "seeds"]
    lines = []
    for row in sorted(rows, key=lambda row: -statistics.fmean(result.accuracy for result in row.results)):
        gaps = [result.ann_accuracy - result.accuracy for result in row.results]
        cells = [
            row.label,
            mean_std([result.accuracy for result in row.results]),
            mean_std([result.ann_accuracy for result in row.results]),
        ]
        cells += [mean_std(gaps), f"{row.one.size_bytes / 1024:.1f}"]
        energy = row.one.energy or {}
        cells += [f"{energy[name] / 1e6:.4g}" if name in energy else "–" for name in tables]
        lines.append([*cells, str(len(row.seeds))])
    return markdown(head, lines)


def shown_times(rows: Sequence[SpikingRow]) -> list[int]:
    """The T that a wide table shows: powers of two, or every evaluated T if none of these was."""
    every = sorted({t for row in rows for t in row.timesteps})
    return [t for t in TIMES if t in every] or every


def total_steps(warmup: int) -> str:
    """Timesteps that an image takes before T can be read."""
    return f"T + {warmup}" if warmup else "T"


def cited(entry: Published) -> str:
    """A published method with its source."""
    return f"*{entry['method']}* (published: {entry['source']})"


def published_accuracies(entry: Published, times: Sequence[int]) -> list[str]:
    """Accuracies of the ANN and at the given T."""
    values = [entry.get("ann_accuracy"), *(entry["snn_accuracy"].get(str(t)) for t in times)]
    return [mean_std([] if value is None else [value]) for value in values]


def losses(results: Iterable[Result]) -> str:
    """Markdown: points of accuracy that clipping, quantization and unevenness cost at each T, on the images of the explanation."""
    lines = []
    for why, label in _explained(results):
        errors = why["errors"]
        for t in errors["snn"]:
            clipped = errors.get("clipped_at", {}).get(t, errors["clipped"])
            steps = errors["ann"], clipped, errors["even"][t], errors["snn"][t]
            figures = steps[0], *(a - b for a, b in pairwise(steps)), steps[-1], errors["limit"]
            lines.append([label, t, *(f"{100 * value:.1f}" for value in figures)])
    head = ["method", "T", "ANN", "− clipping", "− quantization", "− unevenness", "= SNN", "T → ∞"]
    return markdown(head, lines)


def energies(results: Iterable[Result]) -> str:
    """Markdown: energy of one image in µJ at each T, SNN / equally quantized ANN, and the largest T at which the SNN costs less."""
    lines: list[Sequence[str]] = []
    tables: list[str] = []
    for why, label in _explained(results):
        energy = why["energy"]
        tables = list(energy["tables"])
        for t, bits in energy["bits"].items():
            pairs = (
                f"{each['snn'][t] / 1e6:.3g} / {each['quantized'][t] / 1e6:.3g}" for each in energy["tables"].values()
            )
            lines.append([label, t, str(bits), *pairs])
        wins = (str(each["wins_until"]["quantized"] or "never") for each in energy["tables"].values())
        lines.append([label, "cheaper at most until T =", "", *wins])
    return markdown(["method", "T", "bits", *tables], lines)


def _explained(results: Iterable[Result]) -> list[tuple[Mapping[str, Any], str]]:
    """The explanation of the last result of every row that has one, and the row's name."""
    named = [(row.one.explanation, f"{row.label}, {row.one.model}") for row in gather(results)]
    return [(explanation, name) for explanation, name in named if explanation]
