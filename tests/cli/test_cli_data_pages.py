"""The pages of docs/data: their files are written, their commands run as they stand there, and the results are good enough."""

import json
import re
import shlex
from pathlib import Path

import pytest
from command import ROOT, TRAIN, succeed

pytestmark = [pytest.mark.cli, pytest.mark.slow]
PAGES = sorted((ROOT / "docs" / "data").glob("*.md"))
LEAST = {  # score of each training at its largest T
    "folder": [0.95], "arrays": [0.9, 0.9], "table": [0.3], "signals": [0.8], "dense": [0.93],
    "multilabel": [0.9], "events": [0.9, 0.5],
}  # fmt: skip


def commands(text: str) -> list[list[str]]:
    """The arguments of each command of a page."""
    lines = re.findall(r"^snnconv (.*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_as_it_stands_there(page: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if "snnconv" not in code:
            exec(compile(code, page.name, "exec"), {})
    scores: list[float] = []
    for name, *arguments in commands(text):
        run = f"run{len(scores)}"
        script = TRAIN if name == "train" else ROOT / "scripts" / f"{name}.py"
        here = [f"hydra.run.dir={run}"] if name == "train" else []
        words = [word.replace("runs/…", f"run{len(scores) - 1}") for word in arguments]
        succeed(script, *words, *here, "track=none", cwd=tmp_path)
        if name == "train":
            result = json.loads((tmp_path / run / "result.json").read_text())
            scores.append(result["snn_accuracy"][max(result["snn_accuracy"], key=int)])
    assert len(scores) == len(LEAST[page.stem])
    assert all(score >= least for score, least in zip(scores, LEAST[page.stem], strict=True)), scores
    written = {path.name for path in tmp_path.glob("run*/evaluations/**/*.json")}
    expected = {"baseline": "baseline.json", "integerize": "integer.json", "evaluate": "result.json"}
    assert {expected[name] for name, *_ in commands(text) if name in expected} <= written
