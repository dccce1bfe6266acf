"""Figures of results: accuracy, errors, firing rates, spikes and energy against timesteps and layers."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snnconv.analysis.figures import layer_axis, new_figure, time_axis, without_frame
from snnconv.runtime import files


def plot_curves(
    path: Path,
    curves: Mapping[str, Mapping[int, float]],
    lines: Mapping[str, float],
    title: str,
    score: str = "accuracy",
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    bands: Mapping[str, Mapping[int, float]] | None = None,
) -> None:
    """One picture of accuracy, or another `score`, against timesteps, as `draw_curves` has it; below it the `metrics`."""
    below = {name: metric for name, metric in (metrics or {}).items() if "/" not in name}
    figure = new_figure(7.2 if len(curves) < 6 else 10, 4.5 + 3 * len(below))
    first, *others = figure.subplots(1 + len(below), squeeze=False)[:, 0]
    draw_curves(first, curves, lines, title, score=score, bands=bands)
    legend_outside(first)
    for axes, (name, metric) in zip(others, below.items(), strict=True):
        draw_metric(axes, name, metric)
    save_figure(path, figure)


def draw_metric(axes: Any, name: str, metric: Mapping[str, Any]) -> None:
    """A metric of `Result.metrics` against timesteps."""
    scale, curve = (100 if metric["percent"] else 1), {int(t): value for t, value in metric["snn"].items()}
    axes.plot(
        list(curve), [scale * value for value in curve.values()], linewidth=2, marker="o", markersize=4, label="SNN"
    )
    if metric["ann"] is not None:
        ann = scale * metric["ann"]
        axes.axhline(ann, color="0.25", linestyle="--", linewidth=1.5, label=f"ANN {ann:.4g}")
    time_axis(axes, max(curve))
    axes.set_xlabel("timesteps T")
    axes.set_ylabel(f"test {name}{' (%)' if metric['percent'] else ''}")
    axes.legend(frameon=False, loc="best")
    without_frame(axes)


def save_figure(path: Path, figure: Any) -> None:
    """Write the figure to `path` as PNG."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=160)
    files.replace(path, picture.getvalue())


def draw_curves(
    axes: Any,
    curves: Mapping[str, Mapping[int, float]],
    lines: Mapping[str, float],
    title: str,
    *,
    xlabel: str = "timesteps T",
    score: str = "accuracy",
    percent: bool = True,
    styles: Sequence[str] = (),
    bands: Mapping[str, Mapping[int, float]] | None = None,
) -> None:
    """Accuracy against timesteps (a curve each, logarithmic in T), with horizontal lines for reference accuracies.

    `bands` are standard deviations by curve and T.
    """
    scale = 100 if percent else 1
    colors = curve_colors(len(curves))
    for index, (label, curve) in enumerate(curves.items()):
        marks = {"marker": "osD^v"[index % 5], "markersize": 4, "linestyle": styles[index] if styles else "-"}
        marks["color"] = colors[index]
        axes.plot(list(curve), [scale * value for value in curve.values()], linewidth=2, label=label, **marks)
        if band := (bands or {}).get(label):
            low, high = ([scale * (curve[t] + sign * band[t]) for t in curve] for sign in (-1, 1))
            axes.fill_between(list(curve), low, high, color=colors[index], alpha=0.2, linewidth=0)
    for label, value in lines.items():
        text = f"{label} {100 * value:.2f} %" if percent else f"{label} {value:.4g}"
        axes.axhline(scale * value, color="0.25", linestyle="--", linewidth=1.5, label=text)
    time_axis(axes, max(t for curve in curves.values() for t in curve))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(f"test {score}{' (%)' if percent else ''}")
    axes.set_title(title)
    without_frame(axes)


def curve_colors(count: int) -> list[Any]:
    """This number of distinguishable colours: Matplotlib's ten, or for more curves hues in three lightnesses."""
    if count <= 10:
        return [f"C{number}" for number in range(count)]
    from matplotlib.colors import hsv_to_rgb

    tones = (1.0, 0.85), (0.55, 0.95), (0.9, 0.5)  # saturation and value: strong, light, dark
    return [tuple(hsv_to_rgb((number / count, *tones[number % 3]))) for number in range(count)]


def legend_outside(axes: Any) -> None:
    """The legend of curves: in the picture for up to five names, else on its right."""
    names = axes.get_legend_handles_labels()[1]
    if len(names) <= 5 and max(map(len, names)) < 30:
        axes.legend(frameon=False, loc="lower right")
    else:
        axes.legend(
            frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7, ncols=1 + len(names) // 33
        )


def draw_learning(axes: Any, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy (left) and loss (right) of a training against its epochs, rows of `metrics.jsonl`."""
    for key, color in (("train_accuracy", "C0"), ("valid_accuracy", "C1")):
        points = [(row["epoch"], 100 * row[key]) for row in epochs if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, linewidth=2, label=key.partition("_")[0])
    losses = axes.twinx()
    losses.plot(
        [row["epoch"] for row in epochs], [row["loss"] for row in epochs], color="0.55", linewidth=1.5, label="loss"
    )
    losses.set_ylabel("loss")
    losses.set_ylim(bottom=0)
    axes.set(xlabel="epoch", ylabel="accuracy (%)")
    handles = [*axes.get_legend_handles_labels()[0], *losses.get_legend_handles_labels()[0]]
    names = [handle.get_label() for handle in handles]
    axes.legend(handles, names, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(names))
    axes.xaxis.get_major_locator().set_params(integer=True)


def draw_thresholds(axes: Any, epochs: Sequence[Mapping[str, Any]]) -> None:
    """θ of each layer against epochs, rows of `metrics.jsonl`."""
    rows = [row for row in epochs if row.get("thresholds")]
    layers = list(rows[-1]["thresholds"])
    for number, path in enumerate(layers):
        shade = 0.25 + 0.75 * number / max(len(layers) - 1, 1)
        values = [row["thresholds"].get(path) for row in rows]
        axes.plot([row["epoch"] for row in rows], values, color=(0.23, 0.43, 0.65, shade), linewidth=1.5)
    axes.set(xlabel="epoch", ylabel="θ")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    without_frame(axes)


def draw_rates(axes: Any, rates: Mapping[str, float]) -> None:
    """Spikes per neuron and timestep of each layer."""
    axes.barh(range(len(rates)), list(rates.values()), 0.75, color="#3b6ea5")
    layer_axis(axes, list(rates))
    axes.set_xlabel("firing rate (spikes per neuron and timestep)")
