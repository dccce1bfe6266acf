"""Summary that a run prints when it ends."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich
from rich.table import Table

from snnconv.analysis.advice import most_important
from snnconv.analysis.explanation import Explanation
from snnconv.results.records import Result
from snnconv.results.summary import shown as value
from snnconv.results.summary import shown_timesteps


def print_table(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    warmup: int,
    result: Result,
    why: Explanation | None,
    folder: Path,
) -> None:
    """Print the rows at the shown T, the main figures of `result`, and the most important advice of `why`."""
    table = Table()
    metrics = {name: each for name, each in result.metrics.items() if "/" not in name}
    for column in ("T", *(["T + warm-up"] if warmup else []), result.score or "accuracy", "gap to ANN", *metrics):
        table.add_column(column, justify="right")
    shown = shown_timesteps([row["timesteps"] for row in rows])
    for row in rows:
        t = row["timesteps"]
        if t in shown:
            times = (str(t), str(t + warmup)) if warmup else (str(t),)
            table.add_row(*times, f"{100 * row['accuracy']:.2f} %", f"{100 * row['gap']:+.2f}",
                          *(value(row[name], each["percent"]) for name, each in metrics.items()))  # fmt: skip
    seconds = result.wall_seconds["train"]
    trained = f"train {seconds:.0f} s, " if seconds else ""  # not where a trained network is evaluated
    console = rich.get_console()
    console.print(title, style="bold", markup=False, highlight=False)
    console.print(table)
    _print_classes(console, result)
    ann = "".join(f"{name} {value(each['ann'], each['percent'])}, " for name, each in metrics.items())
    console.print(
        f"ANN {100 * result.ann_accuracy:.2f} %, {ann}{result.images_tested} test images, "
        f"{firing(result.firing_rate['mean'])}, "
        f"{trained}evaluate {result.wall_seconds['evaluate']:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    if result.exit:
        early = result.exit
        console.print(
            f"Early exit: {100 * early['accuracy']:.2f} % after {early['mean_timesteps']:.2f} steps (mean), "
            f"{early['seconds']:.1f} s; full run: {100 * early['full_accuracy']:.2f} % after {early['full_timesteps']}, "
            f"{early['full_seconds']:.1f} s",
            highlight=False,
            soft_wrap=True,
        )
    if result.changed_predictions is not None:
        console.print(
            f"{result.precision}: {100 * result.changed_predictions:.2f} % of the predictions differ from float32"
        )
    if why and why.advice:
        console.print(f"On {why.images} {why.role} images:", highlight=False)
        for advice in most_important(why.advice):
            console.print(advice.text(), markup=False, highlight=False)
    console.print(
        f"Run folder: {os.path.relpath(folder)} (report.html has the details)",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


MOST = 20  # classes that are listed


def _print_classes(console: Any, result: Result) -> None:
    """A table of the metrics that have a value for each class, at the last T."""
    each = [(*name.partition("/")[::2], values) for name, values in result.metrics.items() if "/" in name]
    if not each:
        return
    last, table = str(max(result.snn_accuracy)), Table()
    for column in ("metric", "class", f"SNN, T={last}", "ANN"):
        table.add_column(column, justify="left" if column in ("metric", "class") else "right")
    for name, label, values in each[:MOST]:
        table.add_row(
            name, label, *(value(number, values["percent"]) for number in (values["snn"][last], values["ann"]))
        )
    console.print(table)
    if len(each) > MOST:
        console.print(f"… and {len(each) - MOST} more, in result.json", highlight=False)


def firing(rate: float) -> str:
    """The mean number of spikes of a neuron in a step, in words; multi-level neurons emit several.

    >>> firing(0.265), firing(1.5)
    ('26.5 % of the neurons fire in each step', '1.50 spikes of each neuron in each step')
    """
    return (
        f"{100 * rate:.1f} % of the neurons fire in each step"
        if rate <= 1
        else f"{rate:.2f} spikes of each neuron in each step"
    )
