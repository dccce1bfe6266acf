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


def test_the_leaderboard_of_an_entry(tmp_path: Path):
    """Its stated results, and those of a later evaluation, whose folder is that of the leaderboard."""
    leaderboard = EVALUATE.with_name("leaderboard.py")
    lines = (ROOT / "zoo" / ENTRY / "results.jsonl").read_text().splitlines()
    stated = [json.loads(line) for line in lines]
    succeed(leaderboard, f"zoo/{ENTRY}", cwd=tmp_path)
    out = tmp_path / "runs" / "zoo" / ENTRY
    rows = methods_of(out / "leaderboard.md")
    assert list(rows) == [("plain", "qcfs")]
    for result in stated:
        assert f"{100 * result['snn_accuracy']['4']:.2f}" in rows["plain", "qcfs"]
    assert (out / "leaderboard.csv").is_file()
    assert not list((ROOT / "zoo").rglob("leaderboard.*"))  # the entry is not changed

    succeed(EVALUATE, f"run=zoo/{ENTRY}", "method=srp", "timesteps=4", "track=none", "explain.images=0", cwd=tmp_path)
    succeed(leaderboard, f"zoo/{ENTRY}", str(out), "--out", "board", cwd=tmp_path)
    assert {method.partition(" ")[0] for _, method in methods_of(tmp_path / "board" / "leaderboard.md")} == {
        "qcfs",
        "srp",
    }


def methods_of(board: Path) -> dict[tuple[str, str], list[str]]:
    """The cells of each row, by class and method."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in board.read_text().splitlines() if line[:1] == "|"
    ]
    return {(row[0], row[1]): row for row in rows if row[0] not in ("class", "---")}


def test_an_unknown_network_is_named(tmp_path: Path):
    entries = ", ".join(sorted(path.parent.name for path in (ROOT / "zoo").glob("*/README.md")))
    assert ENTRY in entries
    assert f"run=zoo/digits: no such network in the zoo; there are {entries}" in fail(
        EVALUATE, "run=zoo/digits", cwd=tmp_path
    )
