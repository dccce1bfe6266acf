"""Error of the logits against T, in float64, with θ at the largest activation: families of torchvision, methods on squeezenet1_1.

python experiments/any_network/law.py [NAME …]     runs what law.jsonl does not have, or the families named; minutes
python experiments/any_network/law.py --table      writes the tables of README.md from law.jsonl

The families are the small ones of tests/conversion/test_families.py.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1] / "tests" / "conversion"))

from test_families import FAMILIES, build  # noqa: E402

from snnconv.conversion.registry import convert  # noqa: E402
from snnconv.nn.graph.capture import capture  # noqa: E402
from snnconv.runtime.environment import commit, versions  # noqa: E402

RESULTS = FOLDER / "law.jsonl"
FAMILY = ("differential", {"rule": "max"}, 256)
COMPARED = "squeezenet1_1"
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("max_norm", {}),
    ("expectation", {"rule": "max"}),
    ("expectation", {"rule": "max", "share": 0.75, "v_initial": 0.0}),
    ("expectation", {"rule": "max", "share": 0.75, "v_initial": 0.25}),
    ("differential", {"rule": "max"}),
]


def measure(name: str, method: str, settings: dict[str, Any], timesteps: int) -> dict[str, Any]:
    """Relative error of the mean logits of one image at every t."""
    torch.manual_seed(0)
    network, images = build(name)
    start = time.process_time()
    snn = convert(capture(network, images), images, method=method, simulation={"schedule": "step"}, **settings)
    with torch.no_grad():
        target = network(images[:1])
    total, errors = torch.zeros_like(target), []
    for t, logits in enumerate(snn.run(images[:1], timesteps), 1):
        total += logits[0]
        errors.append(float(f"{(total / t - target).norm() / target.norm():.5g}"))
    return {
        "family": name, "method": method, "settings": settings, "errors": errors,
        "cpu_seconds": round(time.process_time() - start, 1), "commit": commit(), "versions": versions(),
    }  # fmt: skip


def ratio(errors: list[float]) -> float:
    """Error about T over that about T/8: means over the last quarter of the steps up to each, since the sums vary."""
    whole, part = len(errors), len(errors) // 8
    return sum(errors[whole * 3 // 4 :]) / 8 / sum(errors[part * 3 // 4 : part])


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown of both."""
    families = [row for row in rows if len(row["errors"]) == FAMILY[2]]
    lines = ["| family | T = 32 | T = 64 | T = 128 | T = 256 | ratio |", "| --- | --- | --- | --- | --- | --- |"]
    for row in families:
        shown = [f"{row['errors'][t - 1]:.4f}" for t in (32, 64, 128, 256)]
        lines.append(f"| {row['family']} | {' | '.join(shown)} | {ratio(row['errors']):.2f} |")
    steps = (1, 2, 4, 8, 16, 32, 64)
    lines += ["", f"On {COMPARED}:", "", f"| method | {' | '.join(f'T = {t}' for t in steps)} |", "| --- " * 8 + "|"]
    for row in rows:
        if row not in families:
            named = [f"{key} = {value}" for key, value in row["settings"].items() if key != "rule"]
            cells = [", ".join([row["method"], *named]), *(f"{row['errors'][t - 1]:.3f}" for t in steps)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, one row after the other, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [(name, *FAMILY) for name in FAMILIES] + [(COMPARED, *method, 64) for method in METHODS]
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    rows = [row for row in rows if row["family"] not in arguments.names]
    found = {(row["family"], row["method"], json.dumps(row["settings"]), len(row["errors"])): row for row in rows}
    for name, method, settings, timesteps in [] if arguments.table else wanted:
        key = name, method, json.dumps(settings), timesteps
        if key not in found:
            found[key] = measure(name, method, settings, timesteps)
            order = [found[k] for k in ((n, m, json.dumps(s), t) for n, m, s, t in wanted) if k in found]
            RESULTS.write_text("".join(json.dumps(row) + "\n" for row in order))
            print(*key, f"{found[key]['cpu_seconds']:.0f} s", flush=True)
    page = FOLDER / "README.md"
    before, _, rest = page.read_text(encoding="utf-8").partition("<!-- law -->\n")
    _, end, after = rest.partition("<!-- end law -->")
    page.write_text(f"{before}<!-- law -->\n{tables(list(found.values()))}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
