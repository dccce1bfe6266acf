"""`python scripts/evaluate.py run=…`: a trained network again, without training, wherever its folder lies now."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command import EVALUATE, FRESH, TRAIN, copy_run, environment, fail, files_in, outcome, succeed

pytestmark = pytest.mark.cli


def curve(folder: Path) -> dict[str, float]:
    """T → accuracy, from a folder with results."""
    return json.loads((folder / "result.json").read_text())["snn_accuracy"]


@pytest.mark.long
def test_again_with_other_timesteps_and_another_schedule(smoke: Path, tmp_path: Path):
    """In a copy elsewhere, from another working directory; only evaluations/ is written."""
    folder = copy_run(smoke, tmp_path / "copy")
    before, old = outcome(folder), files_in(folder)
    cwd = tmp_path / "elsewhere"
    cwd.mkdir()
    text = succeed(
        EVALUATE, "run=../copy", "timesteps=16", "simulate.schedule=layer", "simulate.chunk=5", cwd=cwd, **FRESH
    )
    (again,) = (folder / "evaluations" / "qcfs").iterdir()
    assert f"Run folder: ../copy/evaluations/qcfs/{again.name}" in text
    assert {t: curve(again)[t] for t in curve(smoke)} == curve(smoke)
    assert len(curve(again)) == 16
    results = {
        "result.json",
        "accuracy_vs_timesteps.csv",
        "accuracy_vs_timesteps.png",
        "explanation.json",
        "report.html",
    }
    results.add("evaluate.log")
    assert files_in(again) == {*results, ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"}
    assert old == {name for name in files_in(folder) if not name.startswith("evaluations/")}
    result = json.loads((again / "result.json").read_text())
    original = before["result"]
    for key in ("ann_accuracy", "levels", "model", "data", "seed", "images_tested", "method"):
        assert result[key] == original[key]
    assert {**outcome(folder), "files": None} == {**before, "files": None}
    assert not list(cwd.iterdir())


@pytest.mark.long
def test_a_setting_of_several_methods_is_one_of_each(smoke: Path, tmp_path: Path):
    """Though the default method, which is not among them, has no such setting."""
    copy = copy_run(smoke, tmp_path / "copy")
    text = succeed(
        EVALUATE, "run=copy", "method=burst,signed_snm", "method.v_initial=0.25", "timesteps=2", cwd=tmp_path
    )
    assert "2 of 2 runs finished" in text
    for method in ("burst", "signed_snm"):
        (again,) = (copy / "evaluations" / method).iterdir()
        assert yaml.safe_load((again / ".hydra" / "config.yaml").read_text())["method"]["v_initial"] == 0.25
    text = fail(EVALUATE, "run=copy", "method=burst,qcfs", "method.v_initial=0.25", "timesteps=2", cwd=tmp_path)
    assert "method.v_initial is not a setting of the chosen options" in text


@pytest.mark.long
def test_several_runs_and_schedules_at_once(smoke: Path, tmp_path: Path):
    first, second = (copy_run(smoke, tmp_path / name) for name in ("first", "second"))
    text = succeed(EVALUATE, "-m", "run=first,second", "simulate.schedule=step,layer", "timesteps=3", cwd=tmp_path)
    assert "4 of 4 runs finished" in text
    for folder in (first, second):
        for again in (folder / "evaluations" / "qcfs").iterdir():
            assert curve(again) == {t: value for t, value in curve(smoke).items() if int(t) <= 3}
    assert len(list(tmp_path.glob("*/evaluations/qcfs/*"))) == 4


@pytest.mark.long
def test_runs_of_older_versions_go_on(smoke: Path, tmp_path: Path):
    """Their configurations have neither `explain` nor `costs`; both can be set for any run.

    What is evaluated halfway says so.
    """
    folder = copy_run(smoke, tmp_path / "copy")
    stored = folder / ".hydra" / "config.yaml"
    config = yaml.safe_load(stored.read_text())
    del config["explain"], config["costs"]
    stored.write_text(yaml.safe_dump(config))
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(lines[0])
    text = succeed(EVALUATE, "run=copy", "timesteps=2", "costs=[int8_45nm]", cwd=tmp_path)
    assert "run=copy: its training ended after 1 of 2 epochs" in text
    metrics.write_text("".join(lines))
    (again,) = (folder / "evaluations" / "qcfs").iterdir()
    result = json.loads((again / "result.json").read_text())
    assert list(result["explanation"]["energy"]["tables"]) == ["int8_45nm"]
    assert "its training ended" not in succeed(
        TRAIN, "resume=copy", "timesteps=2", "explain=robustness", "explain.images=8", cwd=tmp_path
    )
    assert "FGSM 1/255" in json.loads((folder / "result.json").read_text())["explanation"]["robustness"]


def test_what_would_need_training_is_refused_and_leaves_nothing(smoke: Path, tmp_path: Path):
    folder = copy_run(smoke, tmp_path / "copy")
    text = fail(EVALUATE, "run=copy", "levels=16", cwd=tmp_path)
    assert (
        "levels=16: this evaluates a trained network unchanged, so only these settings may change: device, threads, data.root"
        in text
    )
    assert "timesteps=0: must be an integer of at least 1" in fail(EVALUATE, "run=copy", "timesteps=0", cwd=tmp_path)
    assert files_in(folder) == files_in(smoke)
    assert not (folder / "evaluations").exists()


@pytest.mark.long
def test_load_ann_in_python_gives_the_network_of_the_report(smoke: Path, tmp_path: Path):
    program = """
import sys
from hydra.utils import instantiate
from omegaconf import OmegaConf
from snnconv.spiking.accuracy import accuracy
from snnconv.runtime.checkpoint import load_ann
ann = load_ann(sys.argv[1])
assert not ann.training
data = OmegaConf.load(sys.argv[1] + "/.hydra/config.yaml")
data.device = "cpu"
print(accuracy(ann, instantiate(data.data).test))
"""
    command = [sys.executable, "-c", program, str(smoke)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), text=True, capture_output=True, check=True)
    assert float(done.stdout) == json.loads((smoke / "result.json").read_text())["ann_accuracy"]


def test_another_encoder_than_that_of_the_run_is_told(smoke: Path, tmp_path: Path):
    folder = copy_run(smoke, tmp_path / "copy")
    file = folder / ".hydra" / "hydra.yaml"
    file.write_text(file.read_text().replace("encoder: direct", "encoder: ttfs"))
    quick = ("run=copy", "explain.images=0", "timesteps=1")
    note = "run=copy: its results were measured with encoder=ttfs; evaluate uses encoder=direct unless it is given"
    assert note in succeed(EVALUATE, *quick, cwd=tmp_path)
    text = succeed(EVALUATE, *quick, "encoder=ttfs", cwd=tmp_path)
    assert "its results were measured" not in text
    assert "method qcfs, encoder ttfs" in text
