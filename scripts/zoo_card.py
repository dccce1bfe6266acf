"""The card of a network of the zoo: data, recipe, seeds, accuracy at every T, class and licence, from its results."""

import importlib
import inspect
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from snnconv.results.records import Result
from snnconv.results.rows import SpikingRow, gather
from snnconv.runtime import program

SELECTED = {
    "best": "the best epoch on validation images",
    "last": "the last epoch",
    "test": "the best epoch on the test images, so the accuracies below are too optimistic",
}


def card(entry: Path, description: Mapping[str, Any], results: Sequence[Result], facts: Mapping[str, Any]) -> str:
    """The text of README.md for the folder `entry`; `facts` are its licence, note, overrides and epochs."""
    one = results[0]
    done, planned = facts["epochs"]
    size = (entry / "ann.safetensors").stat().st_size
    activation = (one.network or {}).get("activation") or "unknown"
    trained = f"{done} epochs" if done >= planned else f"{done} of {planned} epochs (the training was stopped)"
    precision = (one.simulate or {}).get("precision", one.precision)
    parts = [
        f"---\nlicense: {facts['license'].lower()}\nlibrary_name: snnconv\ntags: [spiking-neural-network, ann-snn-conversion]\n"
        f"datasets: [{one.data}]\n---",
        f"# {entry.name}",
        f"{one.model} on {one.data}, activation {activation}{one.quantization}; input {description.get('input_shape')}, "
        f"{description.get('classes')} outputs; {size / 1e6:.2f} MB of weights.",
        *([facts["note"]] if facts["note"] else []),
        f'```python\nann = snnconv.load("{facts["load"]}")\n```',
        f"```\nsnnconv evaluate run={facts['run']} method={gather(results)[0].one.method} timesteps=8\n```",
        "## Recipe",
        f"`{program.line(['snnconv', 'train', *facts['overrides']])}`",
        f"Trained for {trained} at commit {description.get('commit')}; {SELECTED.get(one.select or 'best', one.select)}. Seed of "
        f"these weights: {one.seed}. Hash of the weights: {(one.network or {}).get('weights')}; of the recipe: "
        f"{(one.network or {}).get('recipe')}.",
        "## Data",
        data(entry),
        "## Accuracy",
        *accuracies(results),
        f"Measured at commit {one.commit}, with torch {one.versions.get('torch')}, on {one.device}, in {precision}.",
        "## Licence",
        f"{facts['license']} for the weights; the data have their own.",
    ]
    return "\n\n".join(parts) + "\n"


def data(entry: Path) -> str:
    """The first line of the docstring of the data set that the stored configuration names."""
    target = str(OmegaConf.select(OmegaConf.load(entry / ".hydra" / "config.yaml"), "data._target_"))
    module, _, name = target.rpartition(".")
    function = getattr(importlib.import_module(module), name)
    return (inspect.getdoc(function) or "").partition("\n")[0]


def accuracies(results: Sequence[Result]) -> list[str]:
    """A table for each number of test images: one column for each method, one row for each T, mean ± std over networks."""
    parts = []
    for images in sorted({result.images_tested for result in results}, reverse=True):
        rows: list[SpikingRow] = gather([result for result in results if result.images_tested == images])
        ann = _mean(
            [result.ann_accuracy for result in {result.seed: result for row in rows for result in row.results}.values()]
        )
        seeds = sorted({seed for row in rows for seed in row.seeds})
        head = ["T", *(f"{row.label} ({row.latency_class})" for row in rows)]
        lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
        for t in sorted({t for row in rows for t in row.timesteps}):
            cells = [_mean(row.accuracy(t)) if t in row.timesteps else "–" for row in rows]
            lines.append(f"| {' | '.join([str(t), *cells])} |")
        parts += [f"{images} test images, in percent, {len(seeds)} seed{'s' * (len(seeds) > 1)} ({', '.join(map(str, seeds))}). "
                  f"ANN: {ann}.", "\n".join(lines)]  # fmt: skip
    return parts


def _mean(values: Sequence[float]) -> str:
    """Percent: the value, or mean ± standard deviation."""
    mean = f"{100 * statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.2f}"
