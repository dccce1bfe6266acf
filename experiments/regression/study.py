"""Regression against timesteps: where is the error smallest, and what does the explanation say of it?

python experiments/regression/study.py             trains what errors.jsonl does not have
python experiments/regression/study.py --table     writes the tables of README.md from errors.jsonl
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import snnconv
from snnconv.runtime.environment import commit, versions
from snnconv.runtime.seed import seed_everything
from snnconv.spiking.measured import measured
from snnconv.spiking.metrics import measure
from snnconv.spiking.tasks import Regress

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "errors.jsonl"
LEVELS, SEEDS, SHOWN = (4, 8, 16), (0, 1, 2), (1, 2, 4, 8, 16, 32, 64)
EPOCHS = {"diabetes": 20, "friedman1": 40}
Parts = list[tuple[Tensor, Tensor]]


def parts_of(name: str) -> Parts:
    """Training, validation and test rows, divided in the same way for every seed; inputs have mean 0 and deviation 1."""
    if name == "diabetes":
        inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    else:
        inputs, targets = make_friedman1(n_samples=3000, noise=1.0, random_state=0)
    rest, test = train_test_split(range(len(inputs)), test_size=0.2, random_state=0)
    train, valid = train_test_split(rest, test_size=0.2, random_state=0)
    x, y = torch.tensor(inputs).float(), torch.tensor(targets).float().unsqueeze(1)
    mean, std = x[train].mean(0), x[train].std(0)
    return [((x[part] - mean) / std, y[part]) for part in (train, valid, test)]


def run(data: str, levels: int, seed: int) -> dict[str, Any]:
    """One training, its curve on the test rows, and its explanation on the validation rows."""
    train, valid, test = parts_of(data)
    start = time.perf_counter()
    seed_everything(seed)
    network = nn.Sequential(nn.Linear(train[0].shape[1], 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    model = snnconv.prepare(network, levels=levels, calibration=train[0])
    mean, std = train[1].mean(0).tolist(), train[1].std(0).tolist()
    task = Regress(mean=mean, std=std, metrics={"mae": measure("MeanAbsoluteError")})
    batches = list(zip(train[0].split(32), train[1].split(32), strict=True))
    snnconv.fit(model, batches, [valid], epochs=EPOCHS[data], lr=0.02, task=task, verbose=False)
    snn = snnconv.convert(model, train[0], method="qcfs").for_task(task)
    curve = snnconv.accuracy_over_time(snn, [test], timesteps=64)
    why = snnconv.explain(model, snn, [valid], timesteps=sorted({2, levels, 64}), images=len(valid[0]))
    assert why.errors is not None
    ladder = {key: value for key, value in why.errors.as_dict().items() if key != "layers"}
    return {
        "data": data, "levels": levels, "seed": seed, "tested": len(test[0]), "explained": len(valid[0]),
        "ann": measured(model, [test], task).metrics["mae"], "snn": curve.metrics["mae"], "errors": ladder,
        "advice": [advice.text() for advice in why.advice], "seconds": round(time.perf_counter() - start, 1),
        "commit": commit(), "versions": versions(),
    }  # fmt: skip


def cell(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation over seeds."""
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def groups(lines: Sequence[dict[str, Any]]) -> list[tuple[str, int, list[dict[str, Any]]]]:
    """Data set, L, and the lines of all seeds."""
    return [
        (data, levels, [one for one in lines if (one["data"], one["levels"]) == (data, levels)])
        for data in EPOCHS
        for levels in LEVELS
    ]


def errors(lines: Sequence[dict[str, Any]]) -> str:
    """Mean absolute error by T, relative to the ANN's; the smallest of each row in bold."""
    rows = []
    for data, levels, seeds in groups(lines):
        ratios = {t: [one["snn"][str(t)] / one["ann"] for one in seeds] for t in SHOWN}
        best = min(ratios, key=lambda t: statistics.fmean(ratios[t]))
        cells = [f"**{cell(ratios[t], 3)}**" if t == best else cell(ratios[t], 3) for t in SHOWN]
        better = sum(one["snn"][str(levels)] < one["snn"]["64"] for one in seeds)
        rows.append(
            [data, str(levels), cell([one["ann"] for one in seeds], 2), *cells, f"{better} of {len(seeds)} seeds"]
        )
    return markdown(["data", "L", "ANN", *(f"T = {t}" for t in SHOWN), "T = L better than T = 64"], rows)


def causes(lines: Sequence[dict[str, Any]]) -> str:
    """Points of R² between ANN and SNN on validation rows, from the explanations."""
    rows = []
    for data, levels, seeds in groups(lines):
        ladders = [one["errors"] for one in seeds]
        for t in map(str, sorted({2, levels, 64})):
            parts = [
                [each["ann"] - each["snn"][t] for each in ladders],
                [each["ann"] - each["clipped"] for each in ladders],
                [each["clipped"] - each["even"][t] for each in ladders],
                [each["even"][t] - each["snn"][t] for each in ladders],
                [each["ann"] - each["limit"] for each in ladders],
            ]
            rows.append([data, str(levels), t, *(cell([100 * value for value in part], 2) for part in parts)])
    return markdown(
        ["data", "L", "T", "ANN − SNN", "clipping", "quantization", "unevenness", "ANN − limit (T → ∞)"], rows
    )


def main() -> None:
    """Run what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    present = {(one["data"], one["levels"], one["seed"]) for one in lines}
    every = [(data, levels, seed) for data in EPOCHS for levels in LEVELS for seed in SEEDS]
    for chosen in [] if arguments.table else every:
        if chosen not in present:
            line = json.dumps(run(*chosen))
            with RESULTS.open("a") as file:
                file.write(line + "\n")
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    page = FOLDER / "README.md"
    text = page.read_text(encoding="utf-8")
    for name, table in (("errors", errors(lines)), ("causes", causes(lines))):
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end {name} -->")
        text = f"{before}<!-- {name} -->\n{table}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
