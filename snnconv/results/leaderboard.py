"""Leaderboards: many results ranked within equal latency classes, as Markdown, rows of a CSV, and a picture."""

import statistics
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from snnconv.results.figures import draw_curves, save_figure
from snnconv.results.records import Baseline, Result
from snnconv.results.rows import (
    Row,
    Sample,
    SpikingRow,
    gather,
    gather_baselines,
    precision,
    require_honest,
    sample,
)
from snnconv.results.tables import (
    PLAIN,
    Published,
    cited,
    markdown,
    mean_std,
    published_accuracies,
    quantized_table,
    shown_times,
    total_steps,
)
from snnconv.spiking.latency import latency_class

LEGEND = (
    "Test accuracy in percent, mean ± standard deviation over networks (one network per seed unless noted). **Bold**: no row of "
    "the same class is better at this T, on the networks that both rows have. Rows of a class are sorted by their mean over the T "
    "and networks that all rows of the class have; without such T and networks, and between classes, there is no ranking. "
    "*steps*: timesteps that one image needs for the result at T. *gap* (ANN − SNN) and *spikes* (of one image in all layers, "
    "including warm-up): at the last T of a row. *convert s*: seconds of calibration and training, including the training of files "
    "that a method starts from, once for each T if they depend on T. *evaluate s*: seconds of the simulation of all test images, "
    "once for each T if the network depends on T. *waiting*: a layer needs several inputs before its first output, so the latency "
    "of a network of depth D is up to D times as long."
)
QUANTIZED_LEGEND = (
    "*Quantized ANN*: the same networks without spikes, WxAy with weights of x and activations of y bits, not ranked among the "
    "rows above. Energy of one image is an estimate in µJ, by the table named."
)


def leaderboard(
    results: Iterable[Result], published: Sequence[Published] = (), baselines: Iterable[Baseline] = ()
) -> str:
    """Markdown: a table for each set of results that can be compared, and one for quantized ANNs of the same network.

    `baselines` are those of `read_baselines`; they are below the results of their network.  ValueError if a result contradicts its
    latency class.
    """
    quantized = [list(rows) for _, rows in groupby(gather_baselines(baselines), lambda row: row.comparison)]
    beside = {rows[0].comparison: quantized_table(rows) for rows in quantized}
    parts = []
    for rows in boards(results):
        parts += [_board(rows, published), *filter(None, [beside.pop(rows[0].comparison, None)])]
    alone = [rows for rows in quantized if rows[0].comparison in beside]
    parts += [f"**{title(rows[0])}**\n\n{beside[rows[0].comparison]}" for rows in alone]
    return "\n\n".join([*parts, LEGEND, *([QUANTIZED_LEGEND] if quantized else [])])


def boards(results: Iterable[Result]) -> list[list[SpikingRow]]:
    """Rows that can be compared, best first within each latency class, plain first; ValueError as for `leaderboard`."""
    results = list(results)
    require_honest(results)
    return [ranked(list(rows)) for _, rows in groupby(gather(results), lambda row: row.comparison)]


def title(row: Row[Any]) -> str:
    """Facts that all rows of a board share, in words."""
    one, network = row.one, row.one.network or {}
    activation = network.get("activation")
    words = [f"{one.model} on {one.data}{one.quantization}", *([activation] if activation else [])]
    words += [f"{one.images_tested} test images", precision(one)]
    if one.primary or one.task:
        words.append(f"{one.primary or one.score}, {'higher' if one.higher_is_better else 'lower'} is better")
    if one.select == "test":
        words.append("epoch chosen on the test set")
    name = network.get("recipe") or network.get("weights")
    return " · ".join([*words, f"network {name[:8]}" if name else "network not recorded"])


def _board(rows: list[SpikingRow], published: Sequence[Published]) -> str:
    times = shown_times(rows)
    last = times[-1]
    head = ["class", "method", "steps", "ANN", *(f"T={t}" for t in times)]
    head += ["gap", "spikes", "convert s", "evaluate s", "seeds"]
    lines = []
    for row in rows:
        cells = [row.latency_class, row.label, total_steps(row.one.warmup)]
        percent = row.one.percent
        cells.append(mean_std(row.ann(), percent))
        values = {t: mean_std(row.accuracy(t), percent) for t in times}
        cells += [f"**{values[t]}**" if leads(row, t, rows) else values[t] for t in times]
        end = row.timesteps[-1]
        at_end, spikes = "" if end == last else f" (T={end})", row.spikes(end)
        cells += [
            mean_std(row.gap(end), percent) + at_end,
            f"{statistics.fmean(spikes):.0f}{at_end}" if spikes else "–",
        ]
        lines.append([*cells, f"{row.seconds('convert'):.1f}", f"{row.seconds('evaluate'):.1f}", str(len(row.seeds))])
    one = rows[0].one
    about = {
        "data": one.data,
        "model": one.model,
        "levels": one.levels,
        "activation": (one.network or {}).get("activation"),
    }
    for entry in published:
        if all(entry.get(key) in (None, about.get(key)) for key in about):
            latency = entry.get("latency", PLAIN)
            cells = [latency_class(latency), cited(entry), total_steps(latency["warmup"])]
            lines.append([*cells, *published_accuracies(entry, times), *["–"] * 5])
    return "\n\n".join([f"**{title(rows[0])}**", markdown(head, lines), *_notes(rows)])


def _notes(rows: list[SpikingRow]) -> list[str]:
    unchecked = [row.label for row in rows if not all(result.emitted for result in row.results)]
    averaged = {frozenset(sample(result) for result in row.at(t)) for row in rows for t in row.timesteps}
    repeated = [row.label for row in rows if len(row.seeds) < len(row.results)]
    unranked = [name for name, members in by_class(rows).items() if not common(members)]
    notes = {
        "Class not compared with the emitted spikes (older results): {}.": unchecked,
        "Several networks with the same seed, counted separately: {}.": repeated,
        "Not ranked, because no T and network are common to all rows of the class: {}.": unranked,
    }
    sentences = [text.format(", ".join(labels)) for text, labels in notes.items() if labels]
    return [*sentences, "The values are means over different sets of networks."] if len(averaged) > 1 else sentences


def long_rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """For the CSV: one row for each T of each row of the leaderboard, every figure in a column of its own; fractions in [0, 1]."""
    return [_long(row, t) for rows in boards(results) for row in rows for t in row.timesteps]


def _long(row: SpikingRow, t: int) -> dict[str, Any]:
    one, accuracy, spikes = row.one, row.accuracy(t), row.spikes(t)
    network = one.network or {}
    return {
        "data": one.data, "model": one.model, "activation": network.get("activation"), "levels": one.levels,
        "network": row.comparison[-1], "select": one.select, "precision": precision(one),
        "images_tested": one.images_tested, "class": row.latency_class, "method": row.label,
        "timesteps": t, "warmup": one.warmup, "steps": t + one.warmup,
        "accuracy": statistics.fmean(accuracy), "accuracy_std": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
        "ann_accuracy": statistics.fmean(row.ann()),
        "gap": statistics.fmean(row.gap(t)), "spikes_per_image": statistics.fmean(spikes) if spikes else None,
        "convert_seconds": row.seconds("convert"), "evaluate_seconds": row.seconds("evaluate"),
        "seeds": len({result.seed for result in row.at(t)}),
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
            name = textwrap.fill(name, 44)
            curves[name] = {t + row.one.warmup: statistics.fmean(row.accuracy(t)) for t in row.timesteps}
            styles.append("-" if row.latency_class == "plain" else "--")
        ann = statistics.fmean(value for row in rows for value in row.ann())
        about, one = textwrap.fill(title(rows[0]), 60), rows[0].one
        named: dict[str, Any] = {"score": one.primary or one.score or "accuracy", "percent": one.percent}
        draw_curves(axes, curves, {"ANN": ann}, about, xlabel="timesteps T + τ", styles=styles, **named)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="x-small")
    save_figure(path, figure)


def measured(row: SpikingRow) -> dict[tuple[int, Sample], float]:
    """The value that ranks at every T on every network; negative where lower is better."""
    sign = 1 if row.one.higher_is_better else -1
    return {(t, sample(result)): sign * value for result in row.results for t, value in result.ranking.items()}


def by_class(rows: Iterable[SpikingRow]) -> dict[str, list[SpikingRow]]:
    """Rows of each latency class, plain first."""
    classes: dict[str, list[SpikingRow]] = {}
    for row in rows:
        classes.setdefault(row.latency_class, []).append(row)
    return {name: classes[name] for name in sorted(classes, key=lambda name: (name != "plain", name.count(","), name))}


def common(rows: Iterable[SpikingRow]) -> set[tuple[int, Sample]]:
    """The pairs (T, network) that all of `rows` have; rows without any cannot be ranked."""
    return set.intersection(*(set(measured(row)) for row in rows))


def ranked(rows: Iterable[SpikingRow]) -> list[SpikingRow]:
    """Rows class by class, the best first by mean accuracy over the pairs (T, network) that all rows of the class have."""
    order = []
    for members in by_class(rows).values():
        shared = sorted(common(members), key=str)
        order += sorted(members, key=lambda row: -sum(measured(row)[at] for at in shared))
    return order


def leads(row: SpikingRow, t: int, rows: Iterable[SpikingRow]) -> bool:
    """True if at T = t `row` shares networks with a rival of its class, and no rival is better on the shared ones."""
    values, compared = measured(row), False
    for rival in by_class(rows)[row.latency_class]:
        other = measured(rival)
        shared = sorted((at for at in values.keys() & other.keys() if at[0] == t), key=str)
        if rival is row or not shared:
            continue
        compared = True
        if statistics.fmean(values[at] for at in shared) < statistics.fmean(other[at] for at in shared):
            return False
    return compared
