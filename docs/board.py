"""Every recorded result as a table that can be sorted and filtered, and as curves that can be compared."""

from itertools import cycle
from typing import Any

import itables
import pandas as pd
import plotly.graph_objects as go
from generate import published, results
from IPython.display import HTML

from snnconv.spiking.latency import latency_class

SHOWN = (1, 2, 4, 8, 16, 32, 64)  # timesteps with a column


def _key(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": result["data"],
        "network": result["model"],
        "L": result.get("levels"),
        "method": result["method"],
        "class": latency_class(result["latency"]),
        "seed": result.get("seed"),
    }


def _source(result: dict[str, Any]) -> dict[str, Any]:
    commit = str(result.get("commit") or "")[:7]
    return {"study": result["study"], "commit": commit, "command": result.get("command", "")}


def _accuracies(snn_accuracy: dict[str, float]) -> dict[str, float | None]:
    every = {f"T={t}": snn_accuracy.get(str(t)) for t in SHOWN}
    return {name: None if value is None else round(100 * value, 2) for name, value in every.items()}


def table() -> None:
    """Show all results, one a row, and the published figures of the studies, which are marked."""
    rows = []
    for result in results():
        ann = round(100 * result["ann_accuracy"], 2)
        rows.append({**_key(result), "ANN": ann, **_accuracies(result["snn_accuracy"]), **_source(result)})
    for entry in published():
        about = {
            "data": entry.get("data"),
            "network": entry.get("model"),
            "L": entry.get("levels"),
            "method": entry["method"],
        }
        ann = None if entry.get("ann_accuracy") is None else round(100 * entry["ann_accuracy"], 2)
        about |= {"class": "published", "seed": None, "ANN": ann}
        rows.append(
            {**about, **_accuracies(entry["snn_accuracy"]), "study": entry["study"], "command": entry["source"]}
        )
    itables.init_notebook_mode(connected=False)
    frame = pd.DataFrame(rows, dtype=object).fillna("")  # integers stay integers beside empty cells
    columns = [{"targets": [frame.columns.get_loc("command")], "className": "command"}]
    itables.show(
        frame, classes="display compact", columnDefs=columns, lengthMenu=[15, 50, 200], maxBytes=0, scrollX=True
    )


def curves() -> HTML:
    """Accuracy against timesteps of the best run (at its largest T) of each method, on CIFAR-10; L = 4 is shown at first.

    A method has one color, a network with its L one style of line.
    """
    best: dict[tuple, dict[str, Any]] = {}
    for result in results():
        key = (result["method"], result["model"], result.get("levels"))
        if result["data"] == "cifar10" and _last(result) > _last(best.get(key)):
            best[key] = result
    methods = sorted({method for method, _, _ in best})
    colors = {method: _color(i, len(methods)) for i, method in enumerate(methods)}
    networks = sorted({(model, levels) for _, model, levels in best}, key=lambda pair: (pair[1] != 4, str(pair)))
    dashes = dict(zip(networks, cycle(("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")), strict=False))
    figure = go.Figure()
    for (method, model, levels), result in sorted(best.items(), key=lambda item: str(item[0])):
        accuracy = {int(t): 100 * value for t, value in result["snn_accuracy"].items()}
        figure.add_scatter(
            x=list(accuracy),
            y=list(accuracy.values()),
            name=f"{method}, {model}, L={levels} ({latency_class(result['latency'])})",
            mode="lines+markers",
            line={"color": colors[method], "dash": dashes[model, levels]},
            visible=True if levels == 4 else "legendonly",
        )
    times = [2**k for k in range(8)]
    figure.update_xaxes(type="log", title="timesteps T", tickvals=times, ticktext=[str(t) for t in times])
    figure.update_yaxes(title="test accuracy in percent")
    figure.update_xaxes(gridcolor="rgba(128,128,128,0.3)")
    figure.update_yaxes(gridcolor="rgba(128,128,128,0.3)")
    figure.update_layout(
        height=1000,
        legend={"orientation": "h", "y": -0.15},
        template="plotly_white",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font_color="#808080",
        margin={"t": 30},
    )
    return HTML(figure.to_html(full_html=False, include_plotlyjs=True, config={"responsive": True}))


def _color(index: int, count: int) -> str:
    """Hues in two lightnesses that stand out from white and from black."""
    return f"hsl({360 * index // count}, 75%, {(42, 62)[index % 2]}%)"


def _last(result: dict[str, Any] | None) -> float:
    return list(result["snn_accuracy"].values())[-1] if result else -1.0
