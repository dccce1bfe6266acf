"""Jobs of a queue: a limited time, claims of several workers, results that are collected once."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from jobs import progress, running
from jobs.progress import Queue, work

# In place of train.py: leaves a state, and works until its time has come.
TRAIN = """
import json, pathlib, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(words.get("resume") or words["hydra.run.dir"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "last.ckpt").touch()
if "resume" not in words:
    time.sleep(float(words["seconds"]))
(folder / "result.json").write_text(json.dumps({"ann_accuracy": 0.9, "resumed": "resume" in words}))
"""


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Builds a queue of these jobs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "ROOT", tmp_path)
    monkeypatch.setattr(progress, "LEAST", 0.01)
    monkeypatch.setattr(running, "SHORT_GRACE", 0.2)
    (tmp_path / "train.py").write_text(TRAIN)

    def build(*jobs, **options):
        (tmp_path / "queue.yaml").write_text(yaml.safe_dump({"jobs": [{"study": "study", **job} for job in jobs]}))
        return Queue(tmp_path / "queue.yaml", **options)

    return build


def results(kind="results"):
    path = Path("study") / f"{kind}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_training_is_interrupted_at_the_end_of_the_time_and_resumed(queue):
    jobs = queue({"name": "long", "overrides": "seconds=60"})
    begin, budget = time.monotonic(), 0.5
    while [jobs.progress(job) for job in jobs.jobs()] == ["waiting"]:  # on a busy machine it needs a while to begin
        work(jobs, budget)
        budget *= 2
    assert [jobs.progress(job) for job in jobs.jobs()] == ["interrupted"]
    assert time.monotonic() - begin < 55
    work(jobs)
    assert results() == [{"job": "long", "ann_accuracy": 0.9, "resumed": True}]


def test_a_command_is_not_started_without_the_time_for_it(queue):
    jobs = queue(
        {"name": "slow", "command": "-c pass", "priority": 1, "seconds": 1000},
        {"name": "quick", "command": "-c 'print(1 + 1)'", "priority": 2},
    )
    work(jobs, 100)
    (row,) = results("commands")
    assert (row["job"], row["output"]) == ("quick", ["2"])
    assert 0 <= row["seconds"] < 100
    assert [jobs.progress(job) for job in jobs.jobs()] == ["waiting", "done"]


def test_a_command_writes_its_own_result_in_its_folder(queue):
    code = "import pathlib; pathlib.Path('%folder%/result.json').write_text('{\\\"rows\\\": [1]}')"
    work(queue({"name": "table", "command": f'-c "{code}"'}))
    assert results("commands") == [{"job": "table", "rows": [1]}]


def test_what_a_machine_cannot_do_is_not_tried(queue, monkeypatch):
    monkeypatch.setenv("SNNCONV_DATA", "here")
    entries = [
        {"name": "other", "overrides": "seconds=0"},
        {"name": "images", "overrides": "seconds=0", "machine": "gpu", "data": "images"},
    ]
    jobs = queue(*entries, machine="gpu")
    work(jobs)
    assert [jobs.progress(job) for job in jobs.jobs()] == ["no data"]
    assert not results()
    (Path("here") / "images").mkdir(parents=True)
    work(jobs)
    assert [row["job"] for row in results()] == ["images"]


def test_a_claimed_job_is_left_to_its_worker_until_that_is_gone(queue):
    jobs = queue({"name": "a", "overrides": "seconds=0", "priority": 1}, {"name": "b", "overrides": "seconds=0"})
    with ExitStack() as first, ExitStack() as second, ExitStack() as third:
        assert jobs.claim(first, 10)[0].name == "a"
        assert jobs.claim(second, 10)[0].name == "b"
        assert jobs.claim(third, 10) is None
        assert [jobs.is_running(job) for job in jobs.jobs()] == [True, True]
        first.close()
        assert jobs.claim(third, 10)[0].name == "a"


def test_the_process_of_a_job_holds_the_claim_of_a_worker_that_is_killed(queue):
    """The claim stays if the system does not end the process with its worker."""
    jobs = queue({"name": "a", "overrides": "seconds=0"})
    with ExitStack() as claims:
        _, handle = jobs.claim(claims, 10)
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[handle])
    (job,) = jobs.jobs()
    try:
        assert jobs.is_running(job)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
    assert not jobs.is_running(job)


def test_a_rehearsal_runs_jobs_that_have_a_tiny_form(queue):
    jobs = queue(
        {"name": "no", "overrides": "seconds=60"},
        {"name": "yes", "overrides": "seconds=60", "tiny": "seconds=0", "data": "images"},
        work=Path("there"), results=Path("elsewhere"), tiny=True,
    )  # fmt: skip
    work(jobs, 60)
    assert [json.loads(line)["job"] for line in Path("elsewhere/study/results.jsonl").read_text().splitlines()] == [
        "yes"
    ]
    assert not Path("runs").exists()
