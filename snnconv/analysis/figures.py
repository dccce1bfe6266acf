"""Figures of an explanation: errors, spikes and energy against timesteps and layers."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ERROR_COLORS = {"clipping": "#b5533c", "quantization": "#d9a441", "propagated": "#b8bcc2", "unevenness": "#3b6ea5"}


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # slow to import, and most commands draw nothing

    return Figure(figsize=(width, height), layout="constrained")


def as_svg(draw: Callable[[Any], None], width: float, height: float) -> bytes:
    """The figure that `draw(axes)` draws, as SVG."""
    figure, picture = new_figure(width, height), io.BytesIO()
    draw(figure.subplots())
    figure.savefig(picture, format="svg", metadata={"Date": None})
    return picture.getvalue()


def as_data(draw: Callable[[Any], None], width: float, height: float) -> str:
    """The same as a data address, so that a page needs no other file."""
    return "data:image/svg+xml;base64," + base64.b64encode(as_svg(draw, width, height)).decode()


def draw_ladder(axes: Any, drops: Mapping[int, Mapping[str, float]]) -> None:
    """Percentage points of accuracy lost by each kind of error, stacked at every T; gains are below zero."""
    positions = range(len(drops))
    above, below = [0.0] * len(drops), [0.0] * len(drops)
    for part in next(iter(drops.values())):
        points = [100 * each[part] for each in drops.values()]
        bottoms = [a if p >= 0 else b for p, a, b in zip(points, above, below, strict=True)]
        axes.bar(positions, points, 0.7, bottoms, color=ERROR_COLORS[part], label=part)
        above = [a + max(p, 0) for a, p in zip(above, points, strict=True)]
        below = [b + min(p, 0) for b, p in zip(below, points, strict=True)]
    axes.axhline(0, color="0.25", linewidth=1)
    axes.set_xticks(positions, [str(t) for t in drops])
    axes.set_xlabel("timesteps T")
    axes.set_ylabel("accuracy lost (points)")
    _legend_above(axes)
    without_frame(axes)


def draw_shares(axes: Any, layers: Sequence[str], shares: Mapping[str, Sequence[float]]) -> None:
    """The parts of the relative squared error of each layer; a part that cancels others is left of zero."""
    right, left = [0.0] * len(layers), [0.0] * len(layers)
    for part, values in shares.items():
        starts = [r if v >= 0 else low for v, r, low in zip(values, right, left, strict=True)]
        axes.barh(range(len(layers)), values, 0.75, starts, color=ERROR_COLORS[part], label=part)
        right = [r + max(v, 0) for r, v in zip(right, values, strict=True)]
        left = [low + min(v, 0) for low, v in zip(left, values, strict=True)]
    layer_axis(axes, layers)
    axes.axvline(0, color="0.25", linewidth=1)
    axes.set_xlabel("squared error / squared activation")
    _legend_above(axes)


def draw_raster(axes: Any, trains: Mapping[str, Any]) -> None:
    """Spikes of some neurons of some layers in time, layers one above the other; [T, neurons] each, negative ones in red."""
    base, middles = 0, []
    for number, spikes in enumerate(trains.values()):
        for sign, color in ((1, "0.15"), (-1, "#b5533c")):
            steps, neurons = (spikes.sign() == sign).nonzero().T.tolist() if spikes.numel() else ([], [])
            axes.scatter(
                [t + 1 for t in steps], [base + n for n in neurons], s=9, marker="|", color=color, linewidths=1.3
            )
        middles.append(base + (spikes.shape[1] - 1) / 2)
        base += spikes.shape[1] + 2
        if number < len(trains) - 1:
            axes.axhline(base - 1.5, color="0.8", linewidth=0.8)
    axes.set_yticks(middles, list(trains))
    axes.set_ylim(base - 1, -1)
    axes.set_xlim(0.5, 0.5 + max(len(spikes) for spikes in trains.values()))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("timestep")
    axes.spines[["top", "right"]].set_visible(False)


def draw_energy(axes: Any, snn: Mapping[int, float], quantized: Mapping[int, float], ann: float) -> None:
    """Energy of one image against T, logarithmic on both axes: SNN, equally quantized ANN, and ANN."""
    axes.plot(list(snn), list(snn.values()), marker="o", markersize=4, linewidth=2, label="SNN")
    axes.plot(
        list(quantized), list(quantized.values()), marker="s", markersize=4, linewidth=2, label="ANN, equally quantized"
    )
    axes.axhline(ann, color="0.25", linestyle="--", linewidth=1.5, label="ANN")
    time_axis(axes, max(snn))
    axes.set_yscale("log")
    axes.set_xlabel("timesteps T")
    axes.set_ylabel("µJ per image (estimate)")
    axes.legend(frameon=False)
    without_frame(axes)


def time_axis(axes: Any, last: int) -> None:
    """A logarithmic axis of timesteps up to `last`, with powers of two as ticks."""
    axes.set_xscale("log", base=2)
    ticks = [2**k for k in range(last.bit_length())]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xticks([], minor=True)


def layer_axis(axes: Any, layers: Sequence[str]) -> None:
    """A row for each layer, the first one at the top."""
    axes.set_yticks(range(len(layers)), list(layers), fontsize=7)
    axes.set_ylim(len(layers) - 0.4, -0.6)  # the first layer on top
    axes.grid(alpha=0.3, axis="x")
    axes.spines[["top", "right"]].set_visible(False)


def _legend_above(axes: Any) -> None:
    axes.legend(
        frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, fontsize=8, columnspacing=1, handlelength=1
    )


def without_frame(axes: Any) -> None:
    """A grid behind the curves, and no frame at the top and the right."""
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
