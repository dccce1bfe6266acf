"""A run that is interrupted and resumed ends as if nothing had happened, bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command import (
    CROP,
    LONG,
    SMOKE,
    TRAIN,
    copy_run,
    environment,
    epochs_done,
    files_in,
    finish,
    go_on,
    kill_after,
    only_run,
    outcome,
    run,
    start,
    succeed,
    wait_for,
)  # fmt: skip

pytestmark = pytest.mark.cli


def same_state(a: Any, b: Any) -> bool:
    """Are two nested states equal, bit for bit?"""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_state, a, b))
    return a == b


def state(folder: Path) -> dict[str, Any]:
    """State on which the next epoch of a run depends."""
    return {
        key: value for key, value in torch.load(folder / "last.ckpt", weights_only=True).items() if key != "seconds"
    }


def assert_same(folder: Path, reference: Path) -> None:
    """The run in `folder` ended as `reference` did."""
    assert outcome(folder) == outcome(reference)
    assert same_state(state(folder), state(reference))


@pytest.mark.long
def test_killed_three_times(uninterrupted: Path, tmp_path: Path):
    process = start(TRAIN, LONG, tmp_path)
    for epochs in (2, 5, 9):
        kill_after(epochs, process, tmp_path)
        assert finish(process, tmp_path).status == -signal.SIGKILL
        resume = f"resume={only_run(tmp_path).relative_to(tmp_path)}"
        process = start(TRAIN, [resume], tmp_path)
    done = finish(process, tmp_path)
    assert done.status == 0, done.output
    assert "Resuming after epoch " in done.output
    assert_same(only_run(tmp_path), uninterrupted)


# Runs a script and kills its process at a step of writing a certain file.
ACCIDENT = """
import os, runpy, signal, sys
moment, name, number = os.environ["SNNCONV_ACCIDENT"].split(":")
seen = 0
def happens(now, path):
    global seen
    seen += now == moment and os.path.basename(path) == name
    if seen == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
fsync, replace = os.fsync, os.replace
def slow_fsync(handle):
    path = os.readlink(f"/proc/self/fd/{handle}")
    happens("half", path.replace("/.", "/").removesuffix(".part"))
    fsync(handle)
def slow_replace(source, target, **options):
    happens("written", target)
    replace(source, target, **options)
    happens("replaced", target)
os.fsync, os.replace = slow_fsync, slow_replace
sys.argv[0] = "train.py"
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds file names in /proc")
def test_killed_in_the_middle_of_writing_every_kind_of_file(uninterrupted: Path, tmp_path: Path):
    """Each accident hits the resumed run of the one before; n counts the writes of that process."""
    (tmp_path / "accident.py").write_text(ACCIDENT)
    cwd = tmp_path / "work"
    cwd.mkdir()
    arguments: tuple[str, ...] = LONG
    accidents = (
        "half:ann.safetensors:1", "replaced:ann.safetensors:1", "half:ann.json:1", "written:last.ckpt:3",
        "half:metrics.jsonl:1", "half:result.json:1",
    )  # fmt: skip
    for accident in accidents:
        env = environment(SNNCONV_ACCIDENT=accident)
        done = run(tmp_path / "accident.py", str(TRAIN), *arguments, cwd=cwd, env=env)
        assert done.status == -signal.SIGKILL, f"{accident}: {done.output}"
        arguments = (f"resume={only_run(cwd).relative_to(cwd)}",)
    succeed(TRAIN, *arguments, cwd=cwd)
    assert_same(only_run(cwd), uninterrupted)


def test_ctrl_c_saves_and_says_how_to_go_on(uninterrupted: Path, tmp_path: Path):
    process = start(TRAIN, [*LONG, "hydra.run.dir='my runs/L=4, first'"], tmp_path)
    folder = tmp_path / "my runs" / "L=4, first"  # Hydra and the shell would both read this as something else
    wait_for(lambda: (folder / "metrics.jsonl").exists(), process)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does, to all of its processes
    done = finish(process, tmp_path)
    assert done.status == 130, done.output
    assert "Traceback" not in done.output
    assert "Interrupted." in done.output
    assert not (folder / "result.json").exists()
    go_on(done.output, tmp_path)
    assert_same(folder, uninterrupted)


@pytest.mark.long
def test_a_finished_run_is_evaluated_again_to_the_same_numbers(smoke: Path, tmp_path: Path):
    folder = copy_run(smoke, tmp_path / "moved")
    before = outcome(folder)
    succeed(TRAIN, f"resume={folder}", cwd=tmp_path)
    assert outcome(folder) == before
    assert before["result"]["trained_with"] == list(SMOKE)
    more = succeed(TRAIN, f"resume={folder}", "timesteps=12", "simulate.schedule=layer", cwd=tmp_path)
    assert "Run folder: moved" in more
    curve = json.loads((folder / "result.json").read_text())["snn_accuracy"]
    assert len(curve) == 12
    assert {t: curve[t] for t in before["result"]["snn_accuracy"]} == before["result"]["snn_accuracy"]


def test_a_folder_of_a_run_that_did_not_begin_cannot_be_resumed(tmp_path: Path):
    (tmp_path / "runs" / "half" / ".hydra").mkdir(parents=True)
    (tmp_path / "runs" / "half" / ".hydra" / "config.yaml").write_text("levels: 4\n")
    done = run(TRAIN, "resume=runs/half", cwd=tmp_path)
    assert done.status == 1
    assert done.output == (
        "resume=runs/half: not a run folder with a stored configuration (.hydra/config.yaml); start a new run\n"
    )


def test_a_kill_between_two_bytes_of_any_file_leaves_the_old_one(tmp_path: Path):
    """The same for a single file, without the rest of a run: killed at every step of `files.replace`."""
    program = """
import os, sys
from pathlib import Path
from snnconv.runtime import files
step, names = int(sys.argv[1]), ["fsync", "replace", "unlink"]
def dies(number, function):
    def wrapped(*arguments, **options):
        if step == 2 * number: os._exit(9)
        result = function(*arguments, **options)
        if step == 2 * number + 1: os._exit(9)
        return result
    return wrapped
for number, name in enumerate(names):
    setattr(os, name, dies(number, getattr(os, name)))
files.write_text(Path("file"), "new" * 10**5)
"""
    path = tmp_path / "file"
    seen = []
    for step in range(6):
        path.write_text("old")
        status = subprocess.run([sys.executable, "-c", program, str(step)], cwd=tmp_path, env=environment()).returncode
        seen.append((status, path.read_text()[:3]))
        assert path.read_text() in ("old", "new" * 10**5)
    assert [text for _, text in seen] == ["old", "old", "old", "new", "new", "new"]
    assert [status for status, _ in seen[:4]] == [9] * 4
    subprocess.run([sys.executable, "-c", program, "-1"], cwd=tmp_path, env=environment(), check=True)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]  # and the next write clears up


@pytest.fixture(scope="module")
def long_life(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, ...], Path, float]:
    """Arguments of a run of several seconds, the folder of an uninterrupted one, and its life from .hydra to its end."""
    arguments = (
        *SMOKE,
        "fit.epochs=30",
        "fit.ema=0.9",
        f"+data.augment=[{CROP}]",
        "model.hidden=[512,512]",
        "timesteps=500",
    )
    cwd = tmp_path_factory.mktemp("long")
    process = start(TRAIN, arguments, cwd)
    wait_for(lambda: list(cwd.glob("runs/*/*/.hydra/overrides.yaml")), process)
    begin = time.monotonic()
    assert finish(process, cwd).status == 0
    return arguments, only_run(cwd), time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_killed_at_random_moments(number: int, long_life: tuple, tmp_path: Path):
    """One kill anywhere between the first file and the last, evaluation included; every second run is killed twice."""
    arguments, reference, life = long_life
    chance, killed = random.Random(number), 0
    while killed <= number % 2:
        process = start(TRAIN, arguments, tmp_path)
        wait_for(lambda: list(tmp_path.glob("runs/*/*/.hydra/overrides.yaml")), process)
        time.sleep(chance.uniform(0, life) + 2 * killed)  # a resumed run takes a while before it goes on
        process.kill()
        if finish(process, tmp_path).status == 0:  # it was over before; another try, another moment
            shutil.rmtree(tmp_path / "runs")
            arguments, killed = long_life[0], 0
            continue
        killed += 1
        folder = only_run(tmp_path)
        print(f"run {number}: killed after {epochs_done(tmp_path)} epochs, {sorted(files_in(folder))}")  # noqa: T201
        arguments = (f"resume={folder.relative_to(tmp_path)}",)
    succeed(TRAIN, *arguments, cwd=tmp_path)
    assert_same(only_run(tmp_path), reference)
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_killed_with_dropout(tmp_path: Path):
    """With dropout, training uses torch's default generator, not only the generators of the data."""
    arguments = (*SMOKE, "model=vgg11", "model.dropout=0.5", "fit.epochs=4", "data.train=200")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    succeed(TRAIN, *arguments, cwd=tmp_path / "whole")
    process = start(TRAIN, arguments, tmp_path / "killed")
    kill_after(2, process, tmp_path / "killed")
    finish(process, tmp_path / "killed")
    succeed(TRAIN, f"resume={only_run(tmp_path / 'killed').relative_to(tmp_path / 'killed')}", cwd=tmp_path / "killed")
    assert_same(only_run(tmp_path / "killed"), only_run(tmp_path / "whole"))
    shutil.rmtree(tmp_path)
