"""`report.html`: all results of a run in one file that needs no other file and no network connection."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snnconv.analysis.explanation import Explanation
from snnconv.analysis.figures import as_data
from snnconv.analysis.page import environment, height, section_values
from snnconv.results.confusion import class_rows, matrices, pair_rows
from snnconv.results.exported import exports_below
from snnconv.results.figures import draw_curves, draw_learning, draw_rates, draw_thresholds, legend_outside
from snnconv.results.records import Baseline, Result, read_baselines, read_results
from snnconv.results.rows import E, Row, gather, gather_baselines
from snnconv.results.summary import shown as value
from snnconv.runtime import files
from snnconv.spiking.latency import latency_class

log = logging.getLogger(__name__)
NEAR = 0.005  # of the ANN's accuracy


def render(
    title: str,
    result: Result,
    rows: Sequence[Mapping[str, Any]],
    shown: Sequence[int],
    why: Explanation | None,
    folder: Path,
    configuration: str,
) -> str:
    """The page for the `result` of a run in `folder`; of the `rows` (`report.table_rows`) a table lists the `shown` T."""
    pages, sections = environment(Path(__file__).parent / "templates"), section_values(why)
    comparison = compared(folder)
    drawn = {**sections["pictures"], **pictures(result, rows), **learning(folder), **_overlaid(comparison, result)}
    return pages.get_template("report.html.j2").render(
        title=title,
        result=result,
        rows=rows,
        shown=shown,
        near=next((row["timesteps"] for row in rows if row["gap"] <= NEAR), None),
        latency_class=latency_class(result.latency),
        metrics={name: each for name, each in result.metrics.items() if "/" not in name},
        classes=[(*name.split("/", 1), each) for name, each in result.metrics.items() if "/" in name],
        value=value,
        comparison=comparison,
        confusion=result.confusion,
        matrices=matrices(result.confusion),
        pairs=pair_rows(result.confusion),
        by_class=class_rows(result.confusion),
        quantized=quantized(folder),
        exported=exports_below(_home(folder)),
        configuration=configuration,
        run_folder=os.path.relpath(folder),
        **{**sections, "pictures": drawn},
    )


def pictures(result: Result, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Pictures of accuracy and firing rates as addresses of images, by name."""

    def curve(axes: Any) -> None:
        accuracy = {row["timesteps"]: row["accuracy"] for row in rows}
        draw_curves(axes, {"SNN": accuracy}, {"ANN": result.ann_accuracy}, "", score=result.score or "accuracy")
        axes.legend(frameon=False, loc="lower right")

    layers = result.firing_rate["layers"]
    return {
        "curve": as_data(curve, 6.4, 3.4),
        "rates": as_data(lambda axes: draw_rates(axes, layers), 5, height(layers)),
    }


def learning(folder: Path) -> dict[str, str]:
    """The learning curves of the training in the run folder that `folder` is, or is an evaluation of; {} without a training."""
    epochs = files.read_lines(_home(folder) / "metrics.jsonl")
    if len(epochs) < 2:
        return {}
    drawn = {"learning": as_data(lambda axes: draw_learning(axes, epochs), 6.4, 3.4)}
    if sum("thresholds" in row for row in epochs) > 1:
        drawn["thresholds"] = as_data(lambda axes: draw_thresholds(axes, epochs), 6.4, 3)
    return drawn


def _overlaid(comparison: Mapping[str, Any] | None, result: Result) -> dict[str, str]:
    """The picture of a comparison, {} without one."""
    if comparison is None:
        return {}
    labels = [line["label"] for line in comparison["lines"]]
    curves = {
        line["label"] if labels.count(line["label"]) == 1 else f"{line['label']}, {line['folder']}": dict(
            sorted(line["accuracy"].items())
        )
        for line in comparison["lines"]
    }

    def draw(axes: Any) -> None:
        draw_curves(axes, curves, {"ANN": result.ann_accuracy}, "", score=result.score or "accuracy")
        legend_outside(axes)

    return {"comparison": as_data(draw, 7.2, max(3.4, 0.2 * len(curves)))}


def _home(folder: Path) -> Path:
    """The run folder that `folder` is, or is an evaluation of."""
    homes = [parent.parent for parent in folder.parents if parent.name == "evaluations"]
    return next(
        (home for home in homes if any((home / name).is_file() for name in ("ann.json", "result.json"))), folder
    )


def _of_this_network(results: Sequence[E], home: Path) -> list[E]:
    """Those of `results` that do not lie in the folders of compressed networks."""
    return [one for one in results if "compressed" not in Path(one.source).relative_to(home).parts]


def compared(folder: Path) -> dict[str, Any] | None:
    """Every method evaluated in the run folder that `folder` is, or is an evaluation of; None if it is the only one."""
    try:
        rows = gather(_of_this_network(read_results([home := _home(folder)]), home))
    except (ValueError, OSError) as error:
        log.warning("The report has no comparison of methods: %s", error)
        return None
    times = sorted({t for row in rows for t in row.timesteps if t & (t - 1) == 0 or len(row.timesteps) < 9})
    lines = [
        {
            "label": row.label,
            "class": row.latency_class,
            "accuracy": row.one.snn_accuracy,
            "folder": os.path.relpath(Path(row.one.source).parent, home),
        }
        for row in rows
    ]
    return {"times": times, "lines": lines} if len(rows) > 1 else None


def quantized(folder: Path) -> list[Row[Baseline]]:
    """The quantized networks (`baseline.json`) of the run folder that `folder` is, or is an evaluation of, best first."""
    try:
        rows = gather_baselines(_of_this_network(read_baselines([home := _home(folder)]), home))
    except (ValueError, OSError) as error:
        log.warning("The report has no quantized networks: %s", error)
        return []
    return sorted(rows, key=lambda row: -row.one.accuracy)
