"""`report.html`: all results of a run in one file that needs no other file and no network connection."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from snnconv.analysis.energy import Energy
from snnconv.analysis.explanation import Explanation
from snnconv.results.figures import as_data, draw_curves, draw_energy, draw_ladder, draw_raster, draw_rates, draw_shares
from snnconv.results.records import Baseline, Result, read_baselines, read_results
from snnconv.results.rows import E, Row, gather, gather_baselines
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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    focus = _focus(why) if why and why.errors else None
    return environment.get_template("report.html.j2").render(
        title=title,
        result=result,
        rows=rows,
        shown=shown,
        near=next((row["timesteps"] for row in rows if row["gap"] <= NEAR), None),
        latency_class=latency_class(result.latency),
        comparison=compared(folder),
        quantized=quantized(folder),
        why=why,
        focus=focus,
        energy=why.energy.as_dict() if why else None,
        pictures=pictures(result, rows, why, focus),
        configuration=configuration,
    )


def _focus(why: Explanation) -> int:
    """The T to look at closely: the largest with a cause to name, else the last."""
    causes = [t for advice in why.advice if advice.kind == "loss" and advice.cause for t in advice.timesteps]
    return max(causes, default=why.timesteps[-1])


def pictures(
    result: Result, rows: Sequence[Mapping[str, Any]], why: Explanation | None, focus: int | None
) -> dict[str, Any]:
    """Every picture of the page, by name, as the address of an image."""

    def curve(axes: Any) -> None:
        accuracy = {row["timesteps"]: row["accuracy"] for row in rows}
        draw_curves(axes, {"SNN": accuracy}, {"ANN": result.ann_accuracy}, "")
        axes.legend(frameon=False, loc="lower right")

    layers = result.firing_rate["layers"]
    tall = max(2.8, 0.17 * len(layers))
    images: dict[str, Any] = {
        "curve": as_data(curve, 6.4, 3.4),
        "rates": as_data(lambda axes: draw_rates(axes, layers), 5, tall),
        "energy": {},
    }
    if why is None:
        return images
    images["raster"] = as_data(lambda axes: draw_raster(axes, why.trains), 5, tall)
    if (errors := why.errors) is not None and focus is not None:
        at = errors.at(focus)
        shares = {part: [layer.share[part] for layer in at] for part in at[0].share if part != "total"}
        drops = {t: errors.drops(t) for t in why.timesteps}
        images["ladder"] = as_data(lambda axes: draw_ladder(axes, drops), 5, tall)
        images["shares"] = as_data(lambda axes: draw_shares(axes, [layer.path for layer in at], shares), 5, tall)
    for name in why.energy.costs:
        images["energy"][name] = as_data(partial(_draw_energy, energy=why.energy, costs=name), 5, 3.2)
    return images


def _draw_energy(axes: Any, energy: Energy, costs: str) -> None:
    snn, quantized = (
        {t: sum(each(costs, t).values()) / 1e6 for t in energy.timesteps} for each in (energy.snn, energy.quantized)
    )
    draw_energy(axes, snn, quantized, sum(energy.ann(costs).values()) / 1e6)


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
        log.warning("The report compares nothing: %s", error)
        return None
    times = sorted({t for row in rows for t in row.timesteps if t & (t - 1) == 0 or len(row.timesteps) < 9})
    lines = [
        {
            "label": row.label,
            "class": row.latency_class,
            "accuracy": row.one.snn_accuracy,
        }
        for row in rows
    ]
    return {"times": times, "lines": lines} if len(rows) > 1 else None


def quantized(folder: Path) -> list[Row[Baseline]]:
    """The quantized networks (`baseline.json`) of the run folder that `folder` is, or is an evaluation of, best first."""
    try:
        rows = gather_baselines(_of_this_network(read_baselines([home := _home(folder)]), home))
    except (ValueError, OSError) as error:
        log.warning("The report shows no quantized network: %s", error)
        return []
    return sorted(rows, key=lambda row: -row.one.accuracy)
