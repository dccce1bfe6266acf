"""scripts/integerize.py on a trained run."""

import json
from pathlib import Path

import pytest
from command import EVALUATE, FRESH, copy_run, fail, succeed

pytestmark = pytest.mark.cli
INTEGERIZE = EVALUATE.with_name("integerize.py")


@pytest.mark.long
def test_a_run_in_whole_numbers(smoke: Path, tmp_path: Path):
    folder = copy_run(smoke, tmp_path / "run")
    text = succeed(INTEGERIZE, "run=run", "integer=int4", "timesteps=[2,4]", cwd=tmp_path, **FRESH)
    assert "0 differing spikes on 8 images" in text
    (made,) = (folder / "evaluations" / "qcfs").iterdir()
    found = json.loads((made / "integer.json").read_text())
    assert found["integer"] == {"bits": 4, "per_channel": True, "image_bits": 8, "membrane_bits": None}
    assert list(found["accuracy"]["integer"]) == ["2", "4"]
    float_curve = json.loads((folder / "result.json").read_text())["snn_accuracy"]
    assert found["accuracy"]["float"] == {t: float_curve[t] for t in ("2", "4")}
    assert found["golden"] == {"images": 8, "differing_spikes": 0}
    assert found["weight_bytes"] < found["float_bytes"]
    assert all(bits + found["margin_bits"][path] == 32 for path, bits in found["membrane_bits"].items())


def test_tells_what_is_wrong(smoke: Path, tmp_path: Path):
    copy_run(smoke, tmp_path / "run")
    assert "run=… is missing" in fail(INTEGERIZE, cwd=tmp_path)
    assert "bits=1: weights have 2" in fail(INTEGERIZE, "run=run", "integer.bits=1", cwd=tmp_path)
    text = fail(INTEGERIZE, "run=run", "method=srp", cwd=tmp_path)
    assert (
        "(ResidualPotential): only integrate-and-fire neurons, also with a bias or no_debt, have an integer form"
        in text
    )
    assert not list(tmp_path.glob("run/evaluations/**/integer.json"))
