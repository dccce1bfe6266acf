"""Files that a run writes at its end: `result.json`, the table of accuracy against timesteps, CSV, picture, `report.html`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from snnconv.analysis.explanation import Explanation
from snnconv.results.confusion import confusion_tables
from snnconv.results.figures import plot_curves
from snnconv.results.page import quantized, render
from snnconv.results.records import Result
from snnconv.results.summary import as_csv, rate_rows, shown_timesteps, summarize, table_rows, title_of
from snnconv.results.terminal import print_table
from snnconv.runtime import distributed, files
from snnconv.runtime.run import Run
from snnconv.spiking.curve import Curve
from snnconv.spiking.early_exit import EarlyExit
from snnconv.spiking.measured import Measured
from snnconv.spiking.model import SpikingModel


def report(
    run: Run,
    snn: SpikingModel,
    curve: Curve,
    ann: Measured,
    early: EarlyExit | None = None,
    why: Explanation | None = None,
    compression: Mapping[str, Any] | None = None,
    *,
    exports: Mapping[str, str] | None = None,
    layers: Sequence[Mapping[str, Any]] = (),
) -> Result:
    """Write the result files of `run`, report to its tracker and the terminal; returns the content of `result.json`.

    `layers` as `spiking.layers.list_layers` lists them.
    """
    run.seconds["convert"] += curve.prepare_seconds + snn.spent
    run.seconds["evaluate"] += curve.seconds
    summary = {"exit": early and early.as_dict(), "explanation": why and why.summary(), "compression": compression}
    result = summarize(run.cfg, snn, curve, ann, run.seconds, **summary)
    if not distributed.is_main():
        return result
    result = replace(
        result,
        exports=exports,
        network=run.network(),
        trained_with=run.trained_with(),
        baselines=_baselines(run.folder),
        layers=list(layers),
    )
    rows = table_rows(curve.accuracy, ann.accuracy, result.metrics)
    figure, page = run.folder / "accuracy_vs_timesteps.png", run.folder / "report.html"
    files.write_text(run.folder / "accuracy_vs_timesteps.csv", as_csv(rows))
    title = title_of(result)
    plot_curves(
        figure, {"SNN": curve.accuracy}, {"ANN": ann.accuracy}, title, result.score or "accuracy", result.metrics
    )
    files.write_json(run.folder / "result.json", result.as_dict())
    if why:
        files.write_json(run.folder / "explanation.json", why.as_dict())
    files.write_text(
        page,
        render(title, result, rows, shown_timesteps(list(curve.correct)), why, run.folder, OmegaConf.to_yaml(run.cfg)),
    )
    artifacts = [path for name in ("ann.safetensors", "ann.json") if (path := run.folder / name).is_file()]
    tables = {"accuracy_vs_timesteps": rows, "firing_rates": rate_rows(curve), **confusion_tables(result.confusion)}
    tables |= why.tables() if why else {}
    run.tracker.result(result.as_dict(), tables, figure, page, artifacts)
    print_table(rows, title, snn.latency.warmup, result, why, run.folder)
    return result


def _baselines(folder: Path) -> list[Mapping[str, Any]]:
    """The quantized ANNs of the same network in short."""
    keys = ("baseline", "weight_bits", "activation_bits", "accuracy", "size_bytes", "energy")
    return [{key: getattr(row.one, key) for key in keys} for row in quantized(folder)]
