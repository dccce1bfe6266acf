"""What a run tells: `result.json`, the accuracy-vs-timesteps table, CSV and picture, and `report.html`."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from snnconv.analysis.explanation import Explanation
from snnconv.results.figures import plot_curves
from snnconv.results.page import quantized, render
from snnconv.results.summary import as_csv, shown_timesteps, summarize, table_rows, title_of
from snnconv.results.terminal import print_table
from snnconv.runtime import distributed, files
from snnconv.runtime.run import Run
from snnconv.spiking.accuracy import Curve
from snnconv.spiking.early_exit import EarlyExit
from snnconv.spiking.model import SpikingModel


def report(
    run: Run,
    snn: SpikingModel,
    curve: Curve,
    ann_accuracy: float,
    early: EarlyExit | None = None,
    why: Explanation | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the result files of `run`, tell its tracker and the terminal; returns the content of `result.json`."""
    run.seconds["convert"] += curve.prepare_seconds + snn.spent
    run.seconds["evaluate"] += curve.seconds
    result = summarize(run.cfg, snn, curve, ann_accuracy, run.seconds, str(run.device))
    result["exit"] = early.as_dict() if early else None
    result["explanation"] = why.summary() if why else None
    result |= more or {}
    if not distributed.is_main():
        return result
    result["network"], result["trained_with"] = run.network(), run.trained_with()
    told = ("baseline", "weight_bits", "activation_bits", "accuracy", "size_bytes", "energy")
    result["baselines"] = [{key: other[key] for key in told} for other in quantized(run.folder)]
    rows = table_rows(curve.accuracy, ann_accuracy)
    figure, page = run.folder / "accuracy_vs_timesteps.png", run.folder / "report.html"
    files.write_text(run.folder / "accuracy_vs_timesteps.csv", as_csv(rows))
    title = title_of(result)
    plot_curves(figure, {"SNN": curve.accuracy}, {"ANN": ann_accuracy}, title)
    files.write_json(run.folder / "result.json", result)
    if why:
        files.write_json(run.folder / "explanation.json", why.as_dict())
    files.write_text(
        page,
        render(title, result, rows, shown_timesteps(list(curve.correct)), why, run.folder, OmegaConf.to_yaml(run.cfg)),
    )
    artifacts = [path for name in ("ann.safetensors", "ann.json") if (path := run.folder / name).is_file()]
    tables = {"accuracy_vs_timesteps": rows, **(why.tables() if why else {})}
    run.tracker.result(result, tables, figure, page, artifacts)
    print_table(rows, title, snn.latency.warmup, result, run.folder)
    return result
