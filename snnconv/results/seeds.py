"""Runs of a sweep that differ in their seed alone: means and standard deviations."""

import statistics
from collections.abc import Sequence

from rich.table import Table

from snnconv.results.records import Result
from snnconv.results.summary import shown_timesteps
from snnconv.results.tables import mean_std
from snnconv.spiking.latency import latency_class


def legend(name: str, result: Result) -> str:
    """The name of a run for a picture, with its latency class unless it is plain."""
    hidden = latency_class(result.latency)
    return name if hidden == "plain" else f"{name} [{hidden}]"


Groups = dict[str, list[Result]]


def over_seeds(results: Sequence[tuple[str, Result]]) -> Groups:
    """Results by the name of their run without its seed; {} unless some differ in their seed alone."""
    groups: Groups = {}
    for name, result in results:
        words = [word for word in name.split(" ") if word.partition("=")[0] != "seed"]
        groups.setdefault(legend(" ".join(words) or "all seeds", result), []).append(result)
    return groups if len(groups) < len(results) else {}


def mean_curves(groups: Groups) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]:
    """Mean accuracies by group and T, at the T that all results of a group have, and their standard deviations."""
    means, deviations = {}, {}
    for name, results in groups.items():
        label = f"{name} (mean of {len(results)})" if len(results) > 1 else name
        times = [t for t in results[0].snn_accuracy if all(t in result.snn_accuracy for result in results)]
        values = {t: [result.snn_accuracy[t] for result in results] for t in times}
        means[label] = {t: statistics.fmean(each) for t, each in values.items()}
        if len(results) > 1:
            deviations[label] = {t: statistics.stdev(each) for t, each in values.items()}
    return means, deviations


def seeds_table(groups: Groups) -> Table:
    """One row for the runs that differ in their seed alone."""
    every = [result for results in groups.values() for result in results]
    times = sorted({t for result in every for t in shown_timesteps(sorted(result.snn_accuracy))})
    table = Table(title="Test accuracy (%), mean ± standard deviation over seeds")
    for column in ("run", "seeds"):
        table.add_column(column, overflow="fold")
    for column in ("ANN", *(f"T={t}" for t in times)):
        table.add_column(column, justify="right")
    for name, results in groups.items():
        accuracies = [[result.snn_accuracy[t] for result in results if t in result.snn_accuracy] for t in times]
        cells = [mean_std(values) for values in ([result.ann_accuracy for result in results], *accuracies)]
        table.add_row(name, str(len(results)), *cells)
    return table
