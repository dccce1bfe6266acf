"""Run folders of an older version: they load, resume, evaluate and keep their identity, and the numbers repeat."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command import EVALUATE, ROOT, TRAIN, succeed
from hydra.utils import instantiate
from safetensors.torch import load_file

from snnconv.runtime.checkpoint import describe_ann, identity, load_ann
from snnconv.runtime.recipe import recipe
from snnconv.runtime.stored_config import read_stored
from snnconv.spiking.accuracy import accuracy, accuracy_over_time

STORED = ROOT / "tests" / "stored_runs"
GOLDEN = [json.loads(line) for line in (STORED / "golden.jsonl").read_text().splitlines()]
RECIPES = {
    "mlp": "f3016a39334a", "interrupted": "f3016a39334a", "relu": "61f47172cf30", "custom": "3eb8b38e7da8",
    "resnet20": "d11d51814aca", "compressed": "51065d2417df",
}  # fmt: skip
TRUST = [str(STORED / "net.py")]


def golden(run: str, method: str) -> dict:
    (row,) = [row for row in GOLDEN if (row["run"], row["method"]) == (run, method)]
    return row


def assert_repeats(result: dict, row: dict) -> None:
    """Equal to the last bit where the machine rounds as the one that wrote `row`; another may decide a tie differently."""
    assert result["snn_accuracy"].keys() == row["snn_accuracy"].keys()
    for t, value in row["snn_accuracy"].items():
        assert result["snn_accuracy"][t] == pytest.approx(value, abs=3 / 360), t
        assert result["spikes_per_image"][t] == pytest.approx(row["spikes_per_image"][t], rel=2e-3, abs=0.02), t
    assert result["ann_accuracy"] == pytest.approx(row["ann_accuracy"], abs=3 / 360)


@pytest.mark.parametrize("run", RECIPES)
def test_an_old_run_keeps_its_identity(run, monkeypatch):
    """The recipe hash in the file, and the one that today's code makes of the stored configuration."""
    monkeypatch.chdir(STORED)
    assert identity(STORED / run) == RECIPES[run]
    cfg = read_stored(STORED / run / ".hydra" / "config.yaml", [])
    cfg.names = {}  # needs Hydra, and tells nothing of the recipe
    cfg.pop("hydra", None)
    if run == "compressed":
        cfg.fit.teacher = str(STORED / "mlp")
    assert recipe(cfg) == RECIPES[run]


@pytest.mark.parametrize("run", ["custom", "compressed", "resnet20", "mlp"])
def test_an_old_network_computes_as_before(run, compose_config, monkeypatch):
    monkeypatch.chdir(STORED)
    ann = load_ann(STORED / run, trust=TRUST)
    row = golden(run, "qcfs")
    cfg = compose_config("model=mlp", "levels=4", "fit.batch_size=64", "device=cpu")
    data = instantiate(cfg.data)
    curve = accuracy_over_time(instantiate(cfg.method)(ann, data.calibration), data.test, 8)
    found = {
        "snn_accuracy": {str(t): value for t, value in curve.accuracy.items()},
        "spikes_per_image": {str(t): value for t, value in curve.spikes.items()},
        "ann_accuracy": accuracy(ann, data.test),
    }
    assert_repeats(found, row)
    assert "snnconv.nn." in json.dumps(describe_ann(STORED / run)["config"])


@pytest.mark.cli
def test_an_old_interrupted_run_resumes_to_the_same_network(tmp_path: Path):
    """As the uninterrupted run of that version ended; elsewhere than on the machine that wrote it, up to rounding."""
    shutil.copytree(STORED / "interrupted", tmp_path / "run")
    succeed(TRAIN, "resume=run", "track=none", "explain.images=0", cwd=tmp_path)
    ours, theirs = (load_file(path / "ann.safetensors") for path in (tmp_path / "run", STORED / "mlp"))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-3)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(6))


@pytest.mark.long
@pytest.mark.cli
@pytest.mark.parametrize(("run", "sweep"), [("mlp", "methods_qcfs"), ("relu", "methods_relu")])
def test_every_method_repeats_its_numbers_on_an_old_run(run: str, sweep: str, tmp_path: Path):
    shutil.copytree(STORED / run, tmp_path / "run")
    arguments = (f"sweep={sweep}", "timesteps=8", "track=none", "explain.images=0")
    succeed(EVALUATE, "run=run", *arguments, cwd=tmp_path)
    results = [json.loads(path.read_text()) for path in (tmp_path / "run" / "evaluations").rglob("result.json")]
    assert {result["method"] for result in results} == {row["method"] for row in GOLDEN if row["run"] == run}
    for result in results:
        row = golden(run, result["method"])
        assert_repeats(result, row)
        assert result["settings"].items() >= row["settings"].items()  # newer settings have their defaults
        assert result["network"] == row["network"]
