"""What a run tells: `result.json`, the accuracy-vs-timesteps table, CSV and picture, and `report.html`."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from snnconv.analysis.explanation import Explanation
from snnconv.results.figures import plot_curves
from snnconv.results.page import quantized, render
from snnconv.runtime import distributed, environment, files
from snnconv.runtime.run import Run
from snnconv.spiking.accuracy import Curve
from snnconv.spiking.early_exit import EarlyExit
from snnconv.spiking.latency import latency_class
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


def summarize(
    cfg: DictConfig, snn: SpikingModel, curve: Curve, ann_accuracy: float, seconds: Mapping[str, float], device: str
) -> dict[str, Any]:
    """The content of `result.json` (architecture.md, section 3)."""
    return {
        "ann_accuracy": ann_accuracy,
        "ann_relu_accuracy": None,
        "snn_accuracy": {str(t): value for t, value in curve.accuracy.items()},
        "method": cfg.names.method,
        "settings": method_settings(OmegaConf.to_container(cfg.method, resolve=True)) | snn.facts,  # type: ignore[arg-type]
        "calibration_images": cfg.data.get("calibration"),
        "levels": cfg.levels,
        "weights": stored_weights(cfg),
        "select": cfg.fit.select,
        "timesteps": max(curve.correct),
        "warmup": snn.latency.warmup,
        "latency": snn.latency.as_dict(),
        "model": cfg.names.model,
        "data": cfg.names.data,
        "images_tested": curve.images,
        "seed": cfg.seed,
        "device": device,
        "precision": cfg.precision,
        "compile": cfg.compile,
        "simulate": OmegaConf.to_container(cfg.simulate, resolve=True),
        "neuron_implementation": snn.implementation(),
        "convolutions": snn.convolutions(),
        "changed_predictions": curve.changed_predictions,
        "spikes_per_image": {str(t): value for t, value in curve.spikes.items()},
        "emitted": {"least": curve.emitted[0], "most": curve.emitted[1]},
        "firing_rate": {"mean": curve.mean_firing_rate, "layers": curve.firing_rate},
        "wall_seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "versions": environment.versions(),
        "commit": environment.commit(),
        "command": environment.command(),
    }


def stored_weights(cfg: DictConfig) -> dict[str, Any] | None:
    """What is known of the weights, None for floats; `train` if a training used them so."""
    if cfg.weights.bits is None:
        return None
    trained = bool(cfg.weights.train and cfg.fit.epochs)
    return {"bits": cfg.weights.bits, "per_channel": cfg.weights.per_channel, "train": trained}


NOT_OF_A_METHOD = (
    "_target_",
    "_partial_",
    "_recursive_",
    "simulate",
    "data",
    "seed",
    "precision",
    "compile",
    "save",
    "load",
    "start",
    "teacher",
)


def method_settings(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method's own settings, flat: {"warmup": 8, "rule": "percentile", "rule.percent": 99.9}.

    How to simulate, data, seed and files are none of them; of what came from files, the model's `facts` tell.
    """
    found: dict[str, Any] = {}
    for key, value in method.items():
        if key in NOT_OF_A_METHOD:
            continue
        if isinstance(value, Mapping):
            if "_target_" in value:
                module, _, name = value["_target_"].rpartition(".")
                found[key] = module.rpartition(".")[2] if name == "convert" else name
            found |= {f"{key}.{name}": inner for name, inner in method_settings(value).items()}
        else:
            found[key] = value
    return found


def title_of(result: Mapping[str, Any]) -> str:
    """Network, data and method in words, with what hides behind T; L only where the network has levels."""
    activation, hidden = (result["network"] or {}).get("activation"), latency_class(result["latency"])
    levels = "" if activation == "ReLU" else f", L = {result['levels']}"
    smaller = "".join(f" {stage}" for stage in (result.get("compression") or {}).get("stages", []))
    return f"{result['model']}{smaller} on {result['data']}{levels}, {result['method']}" + (
        f" ({hidden})" if hidden != "plain" else ""
    )


def table_rows(accuracy: Mapping[int, float], ann_accuracy: float) -> list[dict[str, Any]]:
    """One row a timestep: T, accuracy, the ANN's accuracy, and the gap between them (ANN − SNN)."""
    return [
        {"timesteps": t, "accuracy": value, "ann_accuracy": ann_accuracy, "gap": ann_accuracy - value}
        for t, value in accuracy.items()
    ]


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with equal keys as CSV text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def shown_timesteps(timesteps: Sequence[int]) -> list[int]:
    """What a table shows: every T of a list, and of a whole curve 1…T the powers of two and the last."""
    if list(timesteps) != list(range(1, len(timesteps) + 1)):
        return list(timesteps)
    return [t for t in timesteps if t & (t - 1) == 0 or t == timesteps[-1]]


def print_table(
    rows: Sequence[Mapping[str, Any]], title: str, warmup: int, result: Mapping[str, Any], folder: Path
) -> None:
    """The rows at the shown T in the terminal."""
    table = Table()
    for column in ("T", "T + warm-up", "accuracy", "gap to ANN") if warmup else ("T", "accuracy", "gap to ANN"):
        table.add_column(column, justify="right")
    shown = shown_timesteps([row["timesteps"] for row in rows])
    for row in rows:
        t = row["timesteps"]
        if t in shown:
            times = (str(t), str(t + warmup)) if warmup else (str(t),)
            table.add_row(*times, f"{100 * row['accuracy']:.2f} %", f"{100 * row['gap']:+.2f}")
    seconds = result["wall_seconds"]["train"]
    trained = f"train {seconds:.0f} s, " if seconds else ""  # not where a trained network is evaluated
    console = rich.get_console()
    console.print(title, style="bold", highlight=False)
    console.print(table)
    console.print(
        f"ANN {100 * result['ann_accuracy']:.2f} %, {result['images_tested']} test images, "
        f"{100 * result['firing_rate']['mean']:.1f} % of the neurons fire in a step, "
        f"{trained}evaluate {result['wall_seconds']['evaluate']:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    if result["exit"]:
        early = result["exit"]
        console.print(
            f"Early exit: {100 * early['accuracy']:.2f} % after {early['mean_timesteps']:.2f} steps (mean), "
            f"{early['seconds']:.1f} s; full run: {100 * early['full_accuracy']:.2f} % after {early['full_timesteps']}, "
            f"{early['full_seconds']:.1f} s",
            highlight=False,
            soft_wrap=True,
        )
    if result["changed_predictions"] is not None:
        console.print(
            f"{result['precision']}: {100 * result['changed_predictions']:.2f} % of the predictions differ from float32"
        )
    if told := _worth_telling(result["explanation"]):
        console.print(f"On {result['explanation']['images']} {result['explanation']['role']} images:", highlight=False)
    for sentence in told:
        console.print(sentence, highlight=False)
    console.print(f"Run folder: {os.path.relpath(folder)} (report.html tells more)", soft_wrap=True, highlight=False)


def _worth_telling(explanation: Mapping[str, Any] | None) -> list[str]:
    """Of the advice: about the largest T at which there is a cause to name, what would help, and about more timesteps."""
    advice = explanation["advice"] if explanation else []
    told = [sentence for sentence in advice if "Most of it is" in sentence][-1:]
    helps = [
        sentence for sentence in advice if sentence.startswith("Against") and told and sentence.split()[1] in told[0]
    ]
    return [*told, *helps, *advice[-1:]]
