"""Tracking: the same facts in W&B, in a shared file or nowhere; and no service that can stop a run."""

import json
import os
import signal
from pathlib import Path

import pytest
from command import (
    LONG,
    SMOKE,
    TRAIN,
    children,
    environment,
    epochs_done,
    finish,
    kill_after,
    needs_proc,
    only_run,
    outcome,
    run,
    start,
    succeed,
    wait_for,
)  # fmt: skip
from wandb_file import offline_runs

pytestmark = pytest.mark.cli

WANDB = (*SMOKE, "track=wandb", "timesteps=4")


@pytest.mark.long
def test_offline_wandb_holds_everything_and_says_how_to_upload(tmp_path: Path):
    text = succeed(TRAIN, *WANDB, cwd=tmp_path)
    folder = only_run(tmp_path)
    (wandb,) = folder.glob("wandb/offline-run-*")
    how = f"to upload it: wandb sync {wandb.relative_to(tmp_path)}"
    assert f"W&B: tracked offline: not logged in (wandb login); {how}" in text
    assert text.count("wandb sync") == 1
    assert text.rstrip().splitlines()[-1].startswith("Run folder: ")

    (tracked,) = offline_runs(folder)
    result = json.loads((folder / "result.json").read_text())
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert tracked.config["levels"] == 4
    assert tracked.config["fit"]["epochs"] == 2
    assert tracked.config["model"]["_target_"] == "snnconv.nn.models.mlp.mlp"
    assert tracked.run.display_name == f"smoke/{folder.name}"
    assert tracked.run.run_group == ""

    assert tracked.metrics["fit/*"] == "epoch"
    assert tracked.metrics["theta/*"] == "epoch"
    assert tracked.metrics["snn/*"] == tracked.metrics["firing_rate/*"] == "timesteps"
    curves = [line for line in tracked.history if "fit/loss" in line]
    for line, epoch in zip(curves, epochs, strict=True):
        thresholds = epoch.pop("thresholds")
        assert {key: line["epoch" if key == "epoch" else f"fit/{key}"] for key in epoch} == epoch
        assert {key: line[key] for key in line if key.startswith("theta/")} == {
            f"theta/{p}": v for p, v in thresholds.items()
        }
    points = {str(line["timesteps"]): line["snn/accuracy"] for line in tracked.history if "snn/accuracy" in line}
    assert points == result["snn_accuracy"]
    series = {str(line["timesteps"]): line for line in tracked.history if "timesteps" in line}
    assert {t: line["snn/spikes_per_image"] for t, line in series.items()} == result["spikes_per_image"]
    assert {t: line["snn/firing_rate"] for t, line in series.items()} == result["firing_rate"]["by_timesteps"]
    layers = {key.partition("/")[2] for key in series["1"] if key.startswith("firing_rate/")}
    assert layers == set(result["firing_rate"]["layers"])

    media = {key: value for line in tracked.history for key, value in line.items() if isinstance(value, dict)}
    assert media["accuracy_vs_timesteps"]["_type"] == "table-file"
    assert media["accuracy_vs_timesteps"]["nrows"] == 4
    assert media["accuracy_vs_timesteps_plot"]["_type"] == "image-file"
    assert media["report"]["_type"] == "html-file"
    for network in ("ann", "snn"):
        assert tracked.panels[f"confusion_{network}"]["panel_type"] == "Vega2"
        assert media[f"confusion_{network}_table"]["nrows"] == 100
    for table in ("energy", "accuracy_lost", "layer_errors", "confusion", "firing_rates"):
        assert media[table]["_type"] == "table-file"
    assert tracked.summary["result/snn_accuracy"] == result["snn_accuracy"]["4"]
    assert tracked.summary["result/ann_accuracy"] == result["ann_accuracy"]
    (artifact,) = [artifact for artifact in tracked.artifacts if artifact.type == "model"]
    assert {entry.path for entry in artifact.manifest.contents} == {"ann.safetensors", "ann.json"}
    assert tracked.exit_codes == [0]


@pytest.mark.long
def test_a_resumed_run_is_the_same_run_in_wandb(uninterrupted: Path, tmp_path: Path):
    process = start(TRAIN, [*LONG, "track=wandb"], tmp_path)
    kill_after(3, process, tmp_path)
    finish(process, tmp_path)
    folder = only_run(tmp_path)
    succeed(TRAIN, f"resume={folder.relative_to(tmp_path)}", cwd=tmp_path)
    first, last = sorted(path.name for path in folder.glob("wandb/offline-run-*"))
    assert first.rpartition("-")[2] == last.rpartition("-")[2]  # the id
    (tracked,) = offline_runs(folder)[1:]  # holds all, as nobody knows what the killed process had written
    assert [line["epoch"] for line in tracked.history if "fit/loss" in line] == list(range(12))
    assert outcome(folder)["network"] == outcome(uninterrupted)["network"]


@pytest.mark.long
def test_the_runs_of_a_sweep_stand_together(tmp_path: Path):
    succeed(TRAIN, "-m", *WANDB, "levels=2,4", cwd=tmp_path)
    (sweep,) = tmp_path.glob("runs/sweeps/*")
    tracked = [offline_runs(folder)[0] for folder in sorted(tmp_path.glob("runs/smoke/*"))]
    assert [run.config["levels"] for run in tracked] == [2, 4]
    assert [run.run.run_group for run in tracked] == [sweep.name] * 2
    assert tracked[0].run.run_id != tracked[1].run.run_id


@pytest.mark.long
def test_a_server_that_does_not_answer_makes_the_run_an_offline_one(tmp_path: Path):
    env = environment(WANDB_API_KEY="a" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
    done = run(TRAIN, *WANDB, "track.start_timeout=1", cwd=tmp_path, env=env, timeout=60)
    assert done.status == 0, done.output
    assert "Traceback" not in done.output
    assert "W&B: tracked offline: no connection (" in done.output
    tracked = offline_runs(only_run(tmp_path))[-1]
    assert len([line for line in tracked.history if "snn/accuracy" in line]) == 4


@pytest.mark.long
@needs_proc
def test_a_service_that_dies_does_not_take_the_run_with_it(uninterrupted: Path, tmp_path: Path):
    process = start(TRAIN, [*LONG, "track=wandb"], tmp_path)
    wait_for(lambda: epochs_done(tmp_path) >= 2, process)
    (service,) = [pid for pid in children(process.pid) if "wandb" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(service, signal.SIGKILL)
    done = finish(process, tmp_path, timeout=60)
    assert done.status == 0, done.output
    assert "Traceback" not in done.output
    assert "Wandb failed (" in done.output
    assert "the run continues without it" in done.output
    assert outcome(only_run(tmp_path))["network"] == outcome(uninterrupted)["network"]


def test_wandb_can_be_switched_off_from_outside(tmp_path: Path):
    text = succeed(TRAIN, *WANDB, cwd=tmp_path, env=environment(WANDB_MODE="disabled"))
    assert "W&B: disabled" in text
    assert not list(only_run(tmp_path).glob("wandb/*run*"))


@pytest.mark.slow
def test_a_server_that_is_lost_during_the_run(uninterrupted: Path, tmp_path: Path):
    """Logged in, online, and then the network goes: the run ends well and says how to upload what was not taken."""
    (tmp_path / "work").mkdir()
    (tmp_path / "server").mkdir()
    server = start(Path(__file__).with_name("fake_wandb.py"), [], tmp_path / "server")
    said = tmp_path / "server.out"
    port = wait_for(lambda: said.read_text().endswith("\n") and said.read_text().split()[0], server)
    env = environment(WANDB_API_KEY="a" * 40, WANDB_BASE_URL=f"http://127.0.0.1:{port}")
    arguments = [*LONG, "fit.epochs=3000", "track=wandb", "track.finish_timeout=3"]
    process = start(TRAIN, arguments, tmp_path / "work", env=env)
    wait_for(lambda: '"fit/loss"' in said.read_text(), process)
    server.kill()
    server.wait()
    os.kill(process.pid, signal.SIGINT)  # enough epochs
    done = finish(process, tmp_path / "work", timeout=90)
    assert done.status == 130, done.output
    assert "Traceback" not in done.output
    assert f"W&B: http://127.0.0.1:{port}/me/snnconv/runs/" in done.output
    assert "W&B: this run was not uploaded in time; to upload it: wandb sync runs/" in done.output
