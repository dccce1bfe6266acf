"""`python train.py -m …`: one summary, whatever happens to single runs."""

import json
import os
import sys
from pathlib import Path
from statistics import mean, stdev

import pytest
import yaml
from command import ROOT, RUN_FILES, SMOKE, TRAIN, environment, fail, files_in, only_run, run, succeed

pytestmark = pytest.mark.cli

TINY = (*SMOKE, "model.hidden=[16]", "fit.epochs=1", "timesteps=3")


def summary(cwd: Path) -> list[dict]:
    """The rows that the sweep under `cwd` reports for its finished runs."""
    (path,) = cwd.glob("runs/sweeps/*/summary.json")
    assert (path.parent / "curves.png").read_bytes().startswith(b"\x89PNG")
    return json.loads(path.read_text())


@pytest.mark.long
def test_a_sweep_ends_with_a_table_a_picture_and_a_line_per_run(tmp_path: Path):
    text = succeed(TRAIN, "-m", *TINY, "levels=4,8", "seed=0,1", "track=jsonl", cwd=tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("│ levels=")]
    rows, means = lines[:4], [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines[4:]]
    assert [row.split("│")[1].split() for row in rows] == [[f"levels={n}", f"seed={s}"] for n in (4, 8) for s in (0, 1)]
    assert text.count("4 of 4 runs finished. Summary: runs/sweeps/") == 1
    jobs = summary(tmp_path)
    for job, row in zip(jobs, rows, strict=True):
        assert files_in(Path(job["folder"])) == RUN_FILES
        shown = [float(cell) for cell in row.split("│")[2:-1]]
        result = job["result"]
        expected = [result["ann_accuracy"], *result["snn_accuracy"].values()]
        assert shown == [pytest.approx(100 * value, abs=0.005) for value in expected]
        command = f"python {TRAIN} -m {' '.join(TINY)} levels=4,8 seed=0,1 track=jsonl"
        assert result["command"].replace("'", "") == command.replace("'", "")
    last = [100 * job["result"]["snn_accuracy"]["3"] for job in jobs]
    expected = [f"{mean(pair):.2f} ± {stdev(pair):.2f}" for pair in (last[:2], last[2:])]
    assert [(row[0], row[1], row[-1]) for row in means] == [
        (f"levels={n}", "2", e) for n, e in zip((4, 8), expected, strict=True)
    ]
    lines = [json.loads(line) for line in (tmp_path / "runs" / "results.jsonl").read_text().splitlines()]
    assert [(line["levels"], line["seed"]) for line in lines] == [(4, 0), (4, 1), (8, 0), (8, 1)]
    assert lines[3]["snn_accuracy"] == jobs[3]["result"]["snn_accuracy"]


@pytest.mark.long
def test_a_run_that_fails_takes_no_other_with_it(tmp_path: Path):
    """One fails before it begins, one while it trains; one with a mistake that nobody foresaw."""
    done = run(TRAIN, "-m", *TINY, "levels=0,4", "fit.lr=0.1,1e30", "+data.augment=[]", cwd=tmp_path)
    assert done.status == 1, done.output
    assert "Traceback" not in done.output
    assert "Failed: levels=0 fit.lr=0.1: levels=0: must be an integer" in done.output
    assert "Failed: levels=4 fit.lr=1e+30: the loss is not finite in epoch 1" in done.output
    assert "1 of 4 runs finished" in done.output
    (job,) = summary(tmp_path)
    assert job["overrides"][-3:-1] == ["levels=4", "fit.lr=0.1"]

    cwd = tmp_path / "unforeseen"
    cwd.mkdir()
    text = fail(TRAIN, "-m", *TINY, "+data.augment=[],[17]", cwd=cwd)  # 17 cannot be called
    assert "Failed: +data.augment=[17]: 'int' object is not callable" in text
    assert "1 of 2 runs finished" in text
    (log,) = [path for path in cwd.glob("runs/smoke/*/train.log") if "TypeError" in path.read_text()]
    assert "Traceback" in log.read_text()

    (sweep,) = cwd.glob("runs/sweeps/*")
    again = run("-m", "snnconv.results.sweep", str(sweep), cwd=cwd)
    assert again.status == 1
    assert again.output.rstrip().endswith(f"1 of 2 runs finished. Summary: {sweep}")


@pytest.mark.long
def test_the_sweep_over_levels(tmp_path: Path):
    text = succeed(TRAIN, "-m", *TINY, "sweep=levels", "explain.images=0", cwd=tmp_path)
    assert "12 of 12 runs finished" in text
    found = {(job["result"]["levels"], job["result"]["seed"]) for job in summary(tmp_path)}
    assert found == {(levels, seed) for levels in (2, 4, 8, 16) for seed in (0, 1, 2)}


def test_a_folder_that_holds_a_sweep_is_not_mixed_with_another(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "job-0.json").write_text("{}")
    text = fail(TRAIN, "-m", *TINY, "levels=2,4", "hydra.sweep.dir=mine", cwd=tmp_path)
    assert "mine: contains a sweep; choose another hydra.sweep.dir" in text
    assert {path.name for path in tmp_path.rglob("*")} == {"mine", "job-0.json"}


@pytest.mark.slow
def test_the_sweep_over_models(tmp_path: Path):
    tiny = ("experiment=smoke", "data.train=60", "data.valid=20", "data.calibration=20", "data.test=20", "fit.epochs=1")
    text = succeed(TRAIN, "-m", *tiny, "sweep=models", "timesteps=2", cwd=tmp_path)
    assert "5 of 5 runs finished" in text


@pytest.mark.long
def test_the_sweep_of_wandb_runs_as_its_agent_would_run_it(tmp_path: Path):
    from wandb.sdk.launch.sweeps import utils

    sweep = yaml.safe_load((ROOT / "conf" / "sweep" / "wandb.yaml").read_text())
    chosen = {name: {"value": spec.get("values", [spec.get("min")])[-1]} for name, spec in sweep["parameters"].items()}
    macros = utils.create_sweep_command_args({"args": chosen})
    macros |= {"program": [sweep["program"]], "env": ["/usr/bin/env"]}
    command: list[str] = []
    for word in utils.create_sweep_command(sweep["command"]):
        command += macros.get(word.removeprefix("${").removesuffix("}"), [word])
    assert command[:5] == ["/usr/bin/env", "python", "train.py", "track=wandb", "levels=16"]
    assert f"fit.lr={sweep['parameters']['fit.lr']['min']}" in command

    for name in ("train.py", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = environment(WANDB_RUN_ID="fromagent", WANDB_SWEEP_ID="abc", PATH=path)
    done = run(command[1], *command[2:], *TINY, cwd=tmp_path, env=env, program=command[:1])
    assert done.status == 0, done.output
    folder = only_run(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert (result["levels"], result["seed"]) == (16, 2)
    assert len(list(folder.glob("wandb/offline-run-*-fromagent/run-fromagent.wandb"))) == 1
    assert sweep["metric"]["name"] == "result/snn_accuracy"  # written by tracking.Wandb; see test_cli_tracking.py


@pytest.mark.long
def test_a_sweep_in_processes_of_its_own_is_summed_up_too(tmp_path: Path):
    text = fail(TRAIN, "-m", *TINY, "hydra/launcher=local", "levels=4,0", cwd=tmp_path)
    assert "Failed: levels=0: levels=0: must be an integer of at least 1" in text
    assert "1 of 2 runs finished" in text
    (job,) = summary(tmp_path)
    assert files_in(Path(job["folder"])) == RUN_FILES


def test_the_launcher_for_slurm_composes(tmp_path: Path):
    text = succeed(TRAIN, "hydra/launcher=slurm", "--cfg", "hydra", "-p", "hydra.launcher", cwd=tmp_path)
    assert "SubmititLauncher" in text
    assert "array_parallelism: 16" in text
