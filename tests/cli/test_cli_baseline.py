"""scripts/baseline.py on a trained run, and what leaderboards and reports make of it."""

import json
from pathlib import Path

import pytest
from command import EVALUATE, FRESH, copy_run, fail, succeed

pytestmark = pytest.mark.cli
BASELINE, LEADERBOARD = (EVALUATE.with_name(f"{name}.py") for name in ("baseline", "leaderboard"))


@pytest.mark.long
def test_a_quantized_network_stands_beside_the_spiking_one(smoke: Path, tmp_path: Path):
    folder = copy_run(smoke, tmp_path / "run")
    text = succeed(BASELINE, "run=run", "baseline=ptq_static,qat", "baseline.activation_bits=3", cwd=tmp_path, **FRESH)
    assert "2 of 2 runs finished" in text
    found = {path.parts[-3]: json.loads(path.read_text()) for path in folder.glob("evaluations/*/*/baseline.json")}
    assert set(found) == {"ptq_static", "qat"}
    original = json.loads((folder / "result.json").read_text())
    for name, one in found.items():
        assert (one["baseline"], one["weight_bits"], one["activation_bits"]) == (name, 8, 3)
        assert one["settings"]["observer"] == "min_max"
        assert one["size_bytes"] < one["float_bytes"] / 3
        assert one["energy"]["fp32_45nm"] < one["ann_energy"]["fp32_45nm"]
        assert "torchao" in one["versions"]
        for key in ("network", "ann_accuracy", "images_tested", "model", "data", "levels", "seed", "select"):
            assert one[key] == original[key]

    text = succeed(LEADERBOARD, "run", "--out", "out", "--collect", cwd=tmp_path)
    assert text.index("| plain | qcfs |") < text.index("| quantized ANN |") < text.index("| ptq_static W8A3 |")
    assert succeed(LEADERBOARD, "out/results.jsonl", cwd=tmp_path) == text

    succeed(EVALUATE, "run=run", "timesteps=[2]", "explain.images=0", cwd=tmp_path)
    (page,) = folder.glob("evaluations/qcfs/*/report.html")
    assert "The same network, quantized" in page.read_text()
    told = json.loads(page.with_name("result.json").read_text())["baselines"]
    assert {one["baseline"]: one["accuracy"] for one in told} == {name: one["accuracy"] for name, one in found.items()}


def test_tells_what_is_wrong(smoke: Path, tmp_path: Path):
    copy_run(smoke, tmp_path / "run")
    assert "run=… is missing" in fail(BASELINE, cwd=tmp_path)
    text = fail(BASELINE, "run=run", "baseline.weight_bits=1", cwd=tmp_path)
    assert "baseline.weight_bits=1: must be an integer number of bits from 2 to 16" in text
    assert not (tmp_path / "run" / "evaluations").exists()
