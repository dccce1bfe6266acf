"""Write the README's tables from `experiments/*/results.jsonl`: no number in them is typed.

python scripts/make_tables.py [--check]       --check only says whether the README is up to date
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TIMES = (1, 2, 4, 8, 16, 32, 64)


def mean_std(values: list[float]) -> str:
    """Mean ± standard deviation in percent; the mean alone for a single run."""
    mean = f"{100 * statistics.fmean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row for the runs that differ in their seed alone; T = counted timesteps, τ = warm-up."""
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        groups[tuple(result[key] for key in ("data", "model", "levels", "method", "warmup", "precision"))].append(
            result
        )
    times = [t for t in TIMES if any(str(t) in result["snn_accuracy"] for result in results)]
    head = ["data", "model", "L", "method", "τ", "ANN", *(f"T={t}" for t in times), "seeds", "train s"]
    lines = [head, ["---"] * len(head)]
    for (data, model, levels, method, warmup, _), runs in sorted(
        groups.items(), key=lambda item: tuple(map(str, item[0]))
    ):
        curve = [[run["snn_accuracy"][str(t)] for run in runs if str(t) in run["snn_accuracy"]] for t in times]
        cells = [data, model, str(levels), method, str(warmup), mean_std([run["ann_accuracy"] for run in runs])]
        cells += [mean_std(values) if values else "–" for values in curve]
        cells += [str(len(runs)), f"{statistics.fmean(run['wall_seconds']['train'] for run in runs):.0f}"]
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def fill(text: str) -> str:
    """`text` with what stands between `<!-- table NAME -->` and `<!-- end -->` made anew from experiments/NAME."""
    parts = text.split("<!-- table ")
    for index, part in enumerate(parts[1:], 1):
        name, _, rest = part.partition(" -->")
        _, found, after = rest.partition("<!-- end -->")
        source = ROOT / "experiments" / name / "results.jsonl"
        if not found or not source.is_file():
            sys.exit(f"README.md: table {name}: needs {source.relative_to(ROOT)} and a closing <!-- end -->")
        results = [json.loads(line) for line in source.read_text().splitlines()]
        parts[index] = f"{name} -->\n{table(results)}\n<!-- end -->{after}"
    return "<!-- table ".join(parts)


def main() -> None:
    """Rewrite README.md, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = fill(old)
    if parser.parse_args().check:
        sys.exit(0 if new == old else "README.md is not up to date: python scripts/make_tables.py")
    readme.write_text(new)


if __name__ == "__main__":
    main()
