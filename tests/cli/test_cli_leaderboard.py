"""`scripts/evaluate.py method=a,b` and `scripts/leaderboard.py`: from trained networks to one table."""

import json
from pathlib import Path

import pytest
import torch
from command import EVALUATE, FRESH, ROOT, TRAIN, copy_run, fail, files_in, only_run, succeed
from safetensors.torch import load_file

from snnconv.nn.activations.relu import ReLU
from snnconv.nn.models.mlp import mlp

pytestmark = pytest.mark.cli
LEADERBOARD = ROOT / "scripts" / "leaderboard.py"


def results(folder: Path) -> dict[str, dict]:
    """The results of the evaluations of a run, by method."""
    paths = folder.glob("evaluations/*/*/result.json")
    return {path.parts[-3]: json.loads(path.read_text()) for path in paths}


@pytest.mark.long
def test_methods_of_one_command_become_rows_of_one_table(smoke: Path, tmp_path: Path):
    """One of them cannot take this network; the others do not suffer."""
    folder = copy_run(smoke, tmp_path / "copy")
    text = fail(EVALUATE, "run=copy", "method=qcfs,max_norm,srp", "timesteps=[1,2,5]", cwd=tmp_path)
    assert "2 of 3 runs finished" in text
    assert "Failed: method=max_norm: " in text
    (row,) = [line for line in text.splitlines() if line.startswith("│ srp ")]
    assert row.split("│")[2].strip() == "pre-simulated τ=4"
    found = results(folder)
    assert set(found) == {"qcfs", "srp"}
    original = json.loads((folder / "result.json").read_text())
    for result in found.values():
        assert list(result["snn_accuracy"]) == ["1", "2", "5"]
        assert result["timesteps"] == 5
        for key in ("network", "images_tested", "ann_accuracy", "calibration_images"):
            assert result[key] == original[key]
    assert found["qcfs"]["snn_accuracy"] == {t: original["snn_accuracy"][t] for t in ("1", "2", "5")}

    text = succeed(LEADERBOARD, "copy", "--out", "out", "--collect", cwd=tmp_path, **FRESH)
    assert [line.split(" | ")[:3] for line in text.splitlines() if "| T" in line] == [
        ["| class", "method", "steps"], ["| plain", "qcfs", "T"], ["| pre-simulated τ=4", "srp", "T + 4"]
    ]  # fmt: skip
    out = tmp_path / "out"
    assert files_in(out) == {"leaderboard.md", "leaderboard.csv", "leaderboard.png", "results.jsonl"}
    assert (out / "leaderboard.md").read_text() in text
    collected = (out / "results.jsonl").read_text()
    again = succeed(LEADERBOARD, "out/results.jsonl", "copy", "--out", "out", "--collect", cwd=tmp_path)
    assert again == text
    assert (out / "results.jsonl").read_text() == collected  # read twice, written once


def test_settings_of_a_method_are_found_and_recorded(smoke: Path, tmp_path: Path):
    folder = copy_run(smoke, tmp_path / "copy")
    succeed(EVALUATE, "run=copy", "method=srp", "method.warmup=2", "data.calibration=50", "timesteps=[3]", cwd=tmp_path)
    result = results(folder)["srp"]
    assert result["settings"]["warmup"] == result["warmup"] == result["latency"]["warmup"] == 2
    assert "simulate" not in result["settings"]
    assert result["calibration_images"] == 50


def test_a_result_that_contradicts_itself_is_named_and_nothing_is_written(smoke: Path, tmp_path: Path):
    folder = copy_run(smoke, tmp_path / "copy")
    result = json.loads((folder / "result.json").read_text())
    result["emitted"]["least"] = -1
    (folder / "result.json").write_text(json.dumps(result))
    text = fail(LEADERBOARD, "copy", "--out", "out", cwd=tmp_path)
    assert "copy/result.json: qcfs claims unsigned spikes, but a neuron emitted -1 in one step" in text
    assert not (tmp_path / "out").exists()
    assert "nowhere: contains no result.json or results.jsonl" in fail(LEADERBOARD, "nowhere", cwd=tmp_path)


def test_help_tells_how(tmp_path: Path):
    assert "scripts/leaderboard.py runs/… [more …] [--out folder]" in succeed(LEADERBOARD, "--help", cwd=tmp_path)


@pytest.mark.long
def test_a_given_relu_network_is_kept_converted_and_found_again(tmp_path: Path):
    given = mlp(10, (3, 8, 8), ReLU)
    torch.save(given.state_dict(), tmp_path / "given.pt")
    pieces = ("model=mlp", "data=synthetic", "activation=relu", "fit=none", "method=max_norm", "track=none")
    succeed(TRAIN, *pieces, "model.weights=given.pt", "timesteps=[1,4]", cwd=tmp_path)
    folder = only_run(tmp_path)
    assert not (folder / "metrics.jsonl").exists()
    kept = load_file(folder / "ann.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in given.state_dict().items())
    first = json.loads((folder / "result.json").read_text())
    assert (first["network"]["recipe"], first["network"]["activation"], first["select"]) == (None, "ReLU", "last")
    (tmp_path / "given.pt").unlink()
    succeed(EVALUATE, f"run={folder}", "method=max_norm", "timesteps=[1,4]", cwd=tmp_path)
    again = results(folder)["max_norm"]
    for key in ("network", "snn_accuracy", "settings", "select"):
        assert again[key] == first[key]
