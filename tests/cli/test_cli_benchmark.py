"""`scripts/benchmark.py`: what it prints and writes, and names that it does not know."""

import json

import pytest
from command import FRESH, ROOT, run, succeed

pytestmark = pytest.mark.cli
BENCHMARK = ROOT / "scripts" / "benchmark.py"


@pytest.mark.long
def test_groups_that_were_asked_for(tmp_path):
    text = succeed(BENCHMARK, "--quick", "--only", "scaling,curve", "--json", "new/out.json", cwd=tmp_path, **FRESH)
    told = json.loads((tmp_path / "new" / "out.json").read_text())
    assert [row["group"] for row in told["rows"]] == [
        *["whole curve T = 1…8, mlp"] * 2, "scaling with T", "scaling with batch", "scaling with width (MLP)",
    ]  # fmt: skip
    floor, ours = told["rows"][:2]
    assert (floor["variant"], floor["ratio"]) == ("one run per T", 1.0)
    assert f"{ours['ratio']:.3f}" in text
    assert len(ours["seconds"]) == 2
    assert "benchmark.py --quick" in told["command"]
    assert told["versions"]["torch"]


@pytest.mark.parametrize(
    ("option", "value", "known"), [("--only", "simulations", "simulation"), ("--models", "vgg", "vgg16")]
)
def test_what_is_not_known_is_named(tmp_path, option, value, known):
    done = run(BENCHMARK, option, value, cwd=tmp_path)
    assert done.status == 2
    assert f"argument {option}: {value!r} is none of" in done.last_line
    assert known in done.last_line
