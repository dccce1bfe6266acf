"""`torchrun`: the same job on two processes; one folder, one voice, and counts as if it were one process."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from command import (
    EVALUATE,
    RUN_FILES,
    SMOKE,
    TRAIN,
    children,
    copy_run,
    environment,
    epochs_done,
    files_in,
    finish,
    kill_after,
    needs_proc,
    only_run,
    run,
    start,
    succeed,
    wait_for,
)  # fmt: skip

pytestmark = pytest.mark.cli

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def torchrun(script: Path, *arguments: str, cwd: Path, **options):
    """The command on two processes."""
    return run(TORCHRUN[0], *TORCHRUN[1:], str(script), *arguments, cwd=cwd, **options)


@pytest.mark.long
def test_two_processes_do_the_job_of_one(tmp_path: Path):
    cwd, scratch = tmp_path / "work", tmp_path / "scratch"
    cwd.mkdir()
    scratch.mkdir()
    env = environment(TMPDIR=str(scratch))
    done = torchrun(TRAIN, "experiment=smoke", "data.test=101", "fit.ema=0.9", "fit.epochs=3", cwd=cwd, env=env)
    assert done.status == 0, done.output
    folder = only_run(cwd)
    assert files_in(folder) == RUN_FILES
    for line in ("epoch 1/3", "Run folder: ", "ANN "):  # said once
        assert sum(text.startswith(line) for text in done.output.splitlines()) == 1
    assert not list(scratch.glob("snnconv-rank-*"))
    result = json.loads((folder / "result.json").read_text())
    assert result["images_tested"] == 101

    succeed(EVALUATE, f"run={folder.relative_to(cwd)}", cwd=cwd)
    (alone,) = (folder / "evaluations" / "qcfs").iterdir()
    alone = json.loads((alone / "result.json").read_text())
    for key in ("ann_accuracy", "snn_accuracy", "images_tested", "firing_rate"):
        assert alone[key] == result[key]


@pytest.mark.long
def test_the_first_of_two_processes_exports(smoke: Path, tmp_path: Path):
    """It counts operations for itself while the other has finished: the same files and facts as from one process."""
    nothing = tmp_path / "no_programs"
    nothing.mkdir()
    env = environment(PATH=str(nothing))  # without a simulator of Verilog: the counted operations are compared
    settings = ("export=verilog", "export.images=3", "export.timesteps=2")
    exports = []
    for name, launch in (("one", run), ("two", torchrun)):
        folder = copy_run(smoke, tmp_path / name)
        done = launch(EVALUATE.with_name("export.py"), f"run={name}", *settings, cwd=tmp_path, env=env)
        assert done.status == 0, done.output
        assert done.output.count("energy pJ:") == 1  # said once
        (written,) = (folder / "evaluations" / "qcfs").iterdir()
        record = json.loads((written / "export.json").read_text())
        contents = {file: (written / file).read_bytes() for file in record["files"]}
        exports.append(
            (contents, {key: record[key] for key in ("energy_pJ", "operations_per_image", "compared", "files")})
        )
    assert exports[0] == exports[1]


@pytest.mark.long
def test_fewer_images_than_processes(tmp_path: Path):
    """Told by all of them, before one waits for another."""
    done = torchrun(TRAIN, *SMOKE, "data.valid=1", cwd=tmp_path)
    assert done.status == 1
    assert "1 validation images for 2 processes: each needs at least one" in done.output
    done = torchrun(TRAIN, *SMOKE, "explain.images=1", "fit.epochs=1", cwd=tmp_path)
    assert done.status == 0, done.output
    assert "report.html has no explanation: 1 images are too few for 2 processes" in done.output
    assert (only_run(tmp_path) / "result.json").is_file()


@pytest.mark.long
def test_an_error_of_the_user_ends_all_processes(tmp_path: Path):
    done = torchrun(TRAIN, "experiment=smoke", "levels=0", cwd=tmp_path)
    assert done.status == 1
    assert "levels=0: must be an integer of at least 1" in done.output


@needs_proc
@pytest.mark.long
def test_a_lost_process_ends_the_job_and_any_number_goes_on(tmp_path: Path):
    """Two processes, of which one is lost; then one, which is killed; then two again, to the end."""
    job = [*TORCHRUN[1:], str(TRAIN)]
    agent = start(TORCHRUN[0], [*job, *SMOKE, "fit.epochs=24", "fit.ema=0.9"], tmp_path)
    wait_for(lambda: epochs_done(tmp_path) >= 1, agent)
    (lost,) = [pid for pid in children(agent.pid) if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    agent.send_signal(signal.SIGSTOP)  # it would end the other process, perhaps before that has said what happened
    os.kill(lost, signal.SIGKILL)
    text = wait_for(lambda: "To continue: " in (said := Path(f"{tmp_path}.out").read_text()) and said, agent)
    begin = time.monotonic()
    agent.send_signal(signal.SIGCONT)
    done = finish(agent, tmp_path)
    assert done.status == 1
    assert time.monotonic() - begin < 60
    assert "Another process of this job has ended" in text
    assert "Signal 9 (SIGKILL) received" in done.output  # what torchrun has seen

    folder = only_run(tmp_path).relative_to(tmp_path)
    assert f"To continue: python {TRAIN} resume={folder}" in text
    before = epochs_done(tmp_path)
    alone = start(TRAIN, [f"resume={folder}"], tmp_path)
    kill_after(before + 3, alone, tmp_path)
    assert finish(alone, tmp_path).status == -signal.SIGKILL
    assert epochs_done(tmp_path) < 24

    done = torchrun(TRAIN, f"resume={folder}", cwd=tmp_path)
    assert done.status == 0, done.output
    assert "Resuming after epoch " in done.output
    rows = [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(24))
    assert json.loads((tmp_path / folder / "result.json").read_text())["ann_accuracy"] > 0.9
