"""Tables and pictures of many results: the README's tables of a study, and leaderboards ranked within equal latency classes."""

import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from snnconv.figures import draw_curves, save_figure
from snnconv.results import Result, Row, gather, latency_class, require_honest
from snnconv.runtime import files

TIMES = (1, 2, 4, 8, 16, 32, 64, 128)  # the T that a wide table shows; the CSV has all
PLAIN = {"warmup": 0, "waits": False, "spike_levels": 1, "signed": False, "readout_from": 1, "needs_training": "none"}
Published = Mapping[str, Any]
LEGEND = (
    "Test accuracy in percent, mean ± standard deviation over seeds; **bold**: best of its class at that T. Rows of a class "
    "stand in the order of their mean over the T that all of them have; nothing is ranked across classes. *steps*: what an "
    "image costs before T can be read. *spikes*: of one image in all layers, those before the first counted step included. "
    "*waiting*: a layer needs several inputs before its first output, so a network of "
    "depth D answers after up to D times as long."
)
QUANTIZED_LEGEND = (
    "*Quantized ANN*: the same networks without spikes, WxAy with weights of x and activations of y bits, not ranked among the "
    "rows above. Energy of one image is an estimate in µJ, by the table named."
)


def mean_std(values: Sequence[float]) -> str:
    """Mean ± standard deviation in percent; the mean alone for a single run, a dash for none."""
    if not values:
        return "–"
    mean = f"{100 * statistics.fmean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for GitHub."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def read_published(study: Path) -> list[Published]:
    """The published figures beside which a study stands (`published.json`, if there is one); ValueError where one lacks its source.

    Each is an object with "method", "snn_accuracy" {"T": fraction} and "source"; "ann_accuracy" and "latency" if known; and
    whichever of "data", "model", "activation", "levels" a leaderboard must have for it to stand there.
    """
    path = study / "published.json"
    entries = files.read_json(path) if path.is_file() else []
    for number, entry in enumerate(entries, 1):
        missing = [key for key in ("method", "snn_accuracy", "source") if not entry.get(key)]
        if missing:
            raise ValueError(
                f"{path}: entry {number} lacks {', '.join(missing)}; a figure is shown with its source or not at all"
            )
    return entries


def table(results: Iterable[Result], published: Sequence[Published] = ()) -> str:
    """Markdown for a study: one row for the runs that differ in their seed alone; T = counted timesteps, τ = warm-up."""
    rows = gather(results)
    times = _times(rows)
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
            one["data"],
            one["model"],
            str(one["levels"]),
            *([trained[number]] if trained else []),
            row.label,
            str(one["warmup"]),
        ]
        cells += [mean_std([result["ann_accuracy"] for result in row.results]), *(mean_std(row.at(t)) for t in times)]
        lines.append([*cells, str(len(row.results)), f"{row.seconds('train'):.0f}"])
    for entry in published:
        tau = str(entry.get("latency", PLAIN)["warmup"])
        about = [str(entry.get(key, "–")) for key in ("data", "model", "levels")] + (["–"] if trained else [])
        lines.append([*about, _cited(entry), tau, *_figures(entry, times), "–", "–"])
    return markdown(head, lines)


def _training_settings(rows: Sequence[Row]) -> list[str]:
    """Of each row the overrides of training that not all of them have, where only these tell rows apart; else nothing.

    They are those of the run that trained, which a later evaluation or `resume` does not repeat.
    """
    alike = [(row.one["data"], row.one["model"], row.one["levels"], row.label) for row in rows]
    if len(set(alike)) == len(alike):
        return []
    words = [
        shlex.split(row.one["command"]) if row.one.get("trained_with") is None else row.one["trained_with"]
        for row in rows
    ]
    given = [{word for word in each if word.startswith(("fit.", "calibration"))} for each in words]
    common = set.intersection(*(words for words in given if words)) if any(given) else set()
    return [", ".join(sorted(word.removeprefix("fit.") for word in words - common)) or "–" for words in given]


def leaderboard(
    results: Iterable[Result], published: Sequence[Published] = (), baselines: Iterable[Result] = ()
) -> str:
    """Markdown: a table for each set of results that can be compared, and one for the same network in whole numbers.

    `baselines` as `read_baselines` has them; they stand below the results of their network.  ValueError if a result contradicts
    its latency class.
    """
    quantized = [list(rows) for _, rows in groupby(gather(baselines), lambda row: row.comparison)]
    beside = {rows[0].comparison: quantized_table(rows) for rows in quantized}
    parts = []
    for rows in boards(results):
        parts += [_board(rows, published), *filter(None, [beside.pop(rows[0].comparison, None)])]
    alone = [rows for rows in quantized if rows[0].comparison in beside]
    parts += [f"**{title(rows[0])}**\n\n{beside[rows[0].comparison]}" for rows in alone]
    return "\n\n".join([*parts, LEGEND, *([QUANTIZED_LEGEND] if quantized else [])])


def quantized_table(rows: Sequence[Row]) -> str:
    """Markdown: one network in whole numbers, the most accurate first; what several rows have is a mean over seeds."""
    tables = list(dict.fromkeys(name for row in rows for name in row.one["energy"] or {}))
    head = ["quantized ANN", "accuracy", "ANN", "gap", "KiB", *(f"µJ {name}" for name in tables), "seeds"]
    lines = []
    for row in sorted(rows, key=lambda row: -statistics.fmean(result["accuracy"] for result in row.results)):
        gaps = [result["ann_accuracy"] - result["accuracy"] for result in row.results]
        cells = [
            row.label,
            *(mean_std([result[key] for result in row.results]) for key in ("accuracy", "ann_accuracy")),
        ]
        cells += [mean_std(gaps), f"{row.one['size_bytes'] / 1024:.1f}"]
        energy = row.one["energy"] or {}
        cells += [f"{energy[name] / 1e6:.4g}" if name in energy else "–" for name in tables]
        lines.append([*cells, str(len(row.results))])
    return markdown(head, lines)


def boards(results: Iterable[Result]) -> list[list[Row]]:
    """Rows that can be compared, best first within each latency class, plain first; ValueError as for `leaderboard`."""
    results = list(results)
    require_honest(results)
    return [_ranked(list(rows)) for _, rows in groupby(gather(results), lambda row: row.comparison)]


def _ranked(rows: list[Row]) -> list[Row]:
    classes: dict[str, list[Row]] = {}
    for row in rows:
        classes.setdefault(row.latency_class, []).append(row)

    def of_class(name: str) -> list[Row]:
        common = set.intersection(*(set(row.timesteps) for row in classes[name]))
        return sorted(classes[name], key=lambda row: -statistics.fmean(
            [statistics.fmean(row.at(t)) for t in common or row.timesteps]))  # fmt: skip

    order = sorted(classes, key=lambda name: (name != "plain", name.count(","), name))
    return [row for name in order for row in of_class(name)]


def title(row: Row) -> str:
    """What all rows of a board share, in words."""
    one, network = row.one, row.one.get("network") or {}
    activation = network.get("activation")
    levels = f", L = {one['levels']}" if activation != "ReLU" else ""
    words = [f"{one['model']} on {one['data']}{levels}", *([activation] if activation else [])]
    words += [f"{one['images_tested']} test images", one["precision"]]
    if one.get("select") == "test":
        words.append("epoch chosen on the test set")
    name = network.get("recipe") or network.get("weights")
    return " · ".join([*words, f"network {name[:8]}" if name else "network not recorded"])


def _board(rows: list[Row], published: Sequence[Published]) -> str:
    times = _times(rows)
    last = times[-1]
    head = ["class", "method", "steps", "ANN", *(f"T={t}" for t in times)]
    head += [f"gap T={last}", f"spikes T={last}", "convert s", "evaluate s", "seeds"]
    best = {
        (name, t): max(statistics.fmean(row.at(t)) for row in rivals)
        for name in {row.latency_class for row in rows}
        for t in times
        if len(rivals := [row for row in rows if row.latency_class == name and row.at(t)]) > 1
    }
    lines = []
    for row in rows:
        cells = [row.latency_class, row.label, _steps(row.one["warmup"])]
        cells.append(mean_std([result["ann_accuracy"] for result in row.results]))
        for t in times:
            leads = row.at(t) and statistics.fmean(row.at(t)) == best.get((row.latency_class, t))
            cells.append(f"**{mean_std(row.at(t))}**" if leads else mean_std(row.at(t)))
        spikes = row.at(last, "spikes_per_image")
        cells += [mean_std(row.at(last, "gap")), f"{statistics.fmean(spikes):.0f}" if spikes else "–"]
        lines.append([*cells, f"{row.seconds('convert'):.1f}", f"{row.seconds('evaluate'):.1f}", str(len(row.results))])
    about = {**rows[0].one, "activation": (rows[0].one.get("network") or {}).get("activation")}
    for entry in published:
        if all(entry.get(key) in (None, about.get(key)) for key in ("data", "model", "activation", "levels")):
            latency = entry.get("latency", PLAIN)
            figures = _figures(entry, times)
            lines.append([latency_class(latency), _cited(entry), _steps(latency["warmup"]), *figures, *["–"] * 5])
    return "\n\n".join([f"**{title(rows[0])}**", markdown(head, lines), *_notes(rows)])


def _notes(rows: list[Row]) -> list[str]:
    unchecked = [row.label for row in rows if not all(result.get("emitted") for result in row.results)]
    seeds = {tuple(sorted(str(result["seed"]) for result in row.results)) for row in rows}
    notes = []
    if unchecked:
        notes.append(f"Class not checked against what was emitted (older results): {', '.join(unchecked)}.")
    if len(seeds) > 1:
        notes.append("Not every row is a mean over the same seeds.")
    return notes


def _times(rows: Sequence[Row]) -> list[int]:
    """The T that a wide table shows: powers of two, or whatever there is where none of these was evaluated."""
    every = sorted({t for row in rows for t in row.timesteps})
    return [t for t in TIMES if t in every] or every


def _steps(warmup: int) -> str:
    return f"T + {warmup}" if warmup else "T"


def _cited(entry: Published) -> str:
    return f"*{entry['method']}* (published: {entry['source']})"


def _figures(entry: Published, times: Sequence[int]) -> list[str]:
    """Accuracies of the ANN and at the given T."""
    values = [entry.get("ann_accuracy"), *(entry["snn_accuracy"].get(str(t)) for t in times)]
    return [mean_std([] if value is None else [value]) for value in values]


def long_rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """For the CSV: one row for each T of each row of the leaderboard, every figure in a column of its own; fractions in [0, 1]."""
    return [_long(row, t) for rows in boards(results) for row in rows for t in row.timesteps]


def _long(row: Row, t: int) -> dict[str, Any]:
    one, accuracy, spikes = row.one, row.at(t), row.at(t, "spikes_per_image")
    network = one.get("network") or {}
    return {
        "data": one["data"], "model": one["model"], "activation": network.get("activation"), "levels": one["levels"],
        "network": row.comparison[-1], "select": one.get("select"), "precision": one["precision"],
        "images_tested": one["images_tested"], "class": row.latency_class, "method": row.label,
        "timesteps": t, "warmup": one["warmup"], "steps": t + one["warmup"],
        "accuracy": statistics.fmean(accuracy), "accuracy_std": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
        "ann_accuracy": statistics.fmean(result["ann_accuracy"] for result in row.results),
        "gap": statistics.fmean(row.at(t, "gap")), "spikes_per_image": statistics.fmean(spikes) if spikes else None,
        "convert_seconds": row.seconds("convert"), "evaluate_seconds": row.seconds("evaluate"), "seeds": len(accuracy),
    }  # fmt: skip


def plot(path: Path, results: Iterable[Result]) -> None:
    """Accuracy against T + τ, a panel for each comparison; the plain class is drawn in solid lines."""
    from matplotlib.figure import Figure

    groups = boards(results)
    figure = Figure(figsize=(9.6, 4.8 * len(groups)), layout="constrained")
    for axes, rows in zip(figure.subplots(len(groups), squeeze=False)[:, 0], groups, strict=True):
        curves, styles = {}, []
        for row in rows:
            name = row.label if row.latency_class == "plain" else f"{row.label} [{row.latency_class}]"
            curves[name] = {t + row.one["warmup"]: statistics.fmean(row.at(t)) for t in row.timesteps}
            styles.append("-" if row.latency_class == "plain" else "--")
        ann = statistics.fmean(result["ann_accuracy"] for row in rows for result in row.results)
        draw_curves(axes, curves, {"ANN": ann}, title(rows[0]), xlabel="timesteps T + τ", styles=styles)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small")
    save_figure(path, figure)
