"""`scripts/work_queue.py`: jobs in their order, stopped and killed and resumed, each result collected once."""

import json
import os
import shlex
import signal
import time
from pathlib import Path

import pytest
import yaml
from command import (
    LONG,
    ROOT,
    SMOKE,
    TRAIN,
    children,
    environment,
    fail,
    finish,
    needs_proc,
    run,
    start,
    succeed,
    wait_for,
)
from hydra.utils import instantiate
from jobs.queue_file import read_queue

pytestmark = pytest.mark.cli

QUEUE = ROOT / "scripts" / "work_queue.py"
TINY = shlex.join([*SMOKE, "track=none", "explain.images=0"])


def write(cwd: Path, *jobs: dict) -> tuple[str, ...]:
    """A queue file of these jobs; the arguments that name it."""
    entries = [{"study": "study", "overrides": "%tiny%", **job} for job in jobs]
    (cwd / "queue.yaml").write_text(yaml.safe_dump({"recipes": {"tiny": TINY}, "jobs": entries}))
    return ("--queue", "queue.yaml")


def rows(cwd: Path) -> list[dict]:
    """The collected results."""
    path = cwd / "study" / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def is_alive(process: int) -> bool:
    """True while a thread of `process` runs.  The first may be a zombie while others still hold the locks."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(os.listdir(f"/proc/{process}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.long
def test_the_smallest_priority_first_and_each_once(tmp_path: Path):
    queue = write(
        tmp_path,
        {"name": "later", "priority": 2, "overrides": "%tiny% seed=1"},
        {"name": "first", "priority": 1, "overrides": "%tiny% seed=2"},
        {"name": "never", "priority": 0, "state": "paused"},
    )
    text = succeed(QUEUE, *queue, cwd=tmp_path)
    assert [(row["job"], row["seed"]) for row in rows(tmp_path)] == [("first", 2), ("later", 1)]
    assert all(row["commit"] and row["trained_with"] and row["snn_accuracy"] for row in rows(tmp_path))
    assert "paused" in text
    assert not (tmp_path / "runs" / "queue" / "never").exists()
    succeed(QUEUE, *queue, cwd=tmp_path)
    assert len(rows(tmp_path)) == 2


@pytest.mark.long
@needs_proc
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_started_again(tmp_path: Path, how: signal.Signals):
    """The run ends with the runner, and the next start resumes it."""
    queue = write(tmp_path, {"name": "job", "overrides": f"{shlex.join(LONG)} track=none fit.epochs=40"})
    process = start(QUEUE, queue, tmp_path, env=environment(PYTHONUNBUFFERED="1"))
    metrics = tmp_path / "runs" / "queue" / "job" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 3, process)
    (training,) = children(process.pid)
    assert os.getpriority(os.PRIO_PROCESS, training) == 19
    os.kill(process.pid, how)
    done = finish(process, tmp_path)
    assert done.status != 0
    assert "Traceback" not in done.output
    end = time.monotonic() + 20
    while is_alive(training):
        assert time.monotonic() < end, "the run goes on without the runner"
        time.sleep(0.01)
    assert not rows(tmp_path)
    assert "interrupted" in succeed(QUEUE, *queue, "--list", cwd=tmp_path)
    succeed(QUEUE, *queue, cwd=tmp_path)
    assert [row["job"] for row in rows(tmp_path)] == ["job"]
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == list(range(40))


@pytest.mark.long
def test_one_that_fails_does_not_stop_the_others(tmp_path: Path):
    queue = write(
        tmp_path,
        {"name": "wrong", "priority": 1, "overrides": "%tiny% fit.lr=-1"},
        {"name": "right", "priority": 2},
    )
    text = succeed(QUEUE, *queue, cwd=tmp_path)
    assert [row["job"] for row in rows(tmp_path)] == ["right"]
    assert "wrong: failed, status 1: " in text
    assert "wrong: failed" not in succeed(QUEUE, *queue, cwd=tmp_path)
    assert "wrong: failed" in succeed(QUEUE, *queue, "--retry", cwd=tmp_path)


def test_a_run_that_ended_elsewhere_is_collected(tmp_path: Path):
    succeed(TRAIN, *SMOKE, "track=none", "explain.images=0", "hydra.run.dir=elsewhere", cwd=tmp_path)
    queue = write(tmp_path, {"name": "job", "state": "paused", "folder": "elsewhere"})
    assert "done" in succeed(QUEUE, *queue, "--list", cwd=tmp_path)
    assert [row["job"] for row in rows(tmp_path)] == ["job"]


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([{"study": "study"}], "queue.yaml: needs `jobs`, each with name, study, and overrides or command"),
        ([{"name": "a/b"}], "queue.a/b.name='a/b': must be a name for a folder"),
        ([{"name": "a", "state": "done"}], "queue.a.state='done': must be ready or paused"),
        ([{"name": "a", "command": "-V"}], "queue.a: needs either overrides (of train.py) or command (of python)"),
        ([{"name": "a", "machine": "tpu"}], "queue.a.machine='tpu': must be cpu or gpu"),
        ([{"name": "a"}] * 2, "queue.yaml: two jobs have the same name"),
    ],
)
def test_a_wrong_queue_file(tmp_path: Path, jobs: list[dict], message: str):
    assert message in fail(QUEUE, *write(tmp_path, *jobs), cwd=tmp_path)


def test_one_runner_at_a_time(tmp_path: Path):
    from snnconv.runtime import files

    (tmp_path / "runs" / "queue").mkdir(parents=True)
    with files.held(tmp_path / "runs" / "queue"):
        assert "another process is using this folder" in run(QUEUE, *write(tmp_path), cwd=tmp_path).output


def test_our_queue_composes(compose_config):
    """Every job of experiments/queue.yaml is a configuration of today."""
    jobs = [job for job in read_queue(ROOT / "experiments" / "queue.yaml") if job.trains]
    assert jobs
    for job in jobs:
        instantiate(compose_config(*shlex.split(job.overrides)).fit)
