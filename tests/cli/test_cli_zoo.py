"""Networks of the zoo on the command line: evaluated from anywhere, packed from a run."""

import json
from pathlib import Path

import pytest
from command import EVALUATE, ROOT, fail, succeed

pytestmark = [pytest.mark.cli, pytest.mark.long]
ENTRY = "digits_mlp_qcfs_l4"


def test_evaluation_equals_the_card(tmp_path: Path):
    succeed(EVALUATE, f"run=zoo/{ENTRY}", "timesteps=4", "track=none", "explain.images=0", cwd=tmp_path)
    (file,) = (tmp_path / "runs" / "zoo" / ENTRY / "evaluations" / "qcfs").rglob("result.json")
    line = (ROOT / "zoo" / ENTRY / "results.jsonl").read_text().splitlines()[0]
    measured, stated = json.loads(file.read_text()), json.loads(line)
    assert measured["ann_accuracy"] == pytest.approx(stated["ann_accuracy"], abs=1 / 360)
    for t, value in measured["snn_accuracy"].items():
        assert value == pytest.approx(stated["snn_accuracy"][t], abs=3 / 360)
    assert measured["network"] == stated["network"]


def test_an_unknown_network_is_named(tmp_path: Path):
    entries = ", ".join(sorted(path.parent.name for path in (ROOT / "zoo").glob("*/README.md")))
    assert ENTRY in entries
    assert f"run=zoo/digits: no such network in the zoo; there are {entries}" in fail(
        EVALUATE, "run=zoo/digits", cwd=tmp_path
    )
