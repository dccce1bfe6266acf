"""`scripts/work_queue.py --executor`: several workers share a queue, and the job of one that is killed is taken up by another."""

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml
from command import ROOT, fail, finish, needs_proc, run, start, wait_for

pytestmark = [pytest.mark.cli, needs_proc]

QUEUE = ROOT / "scripts" / "work_queue.py"
# Only the first start of the job lasts; each writes its process.
CODE = """
import os, pathlib, time
starts = pathlib.Path(r'%folder%') / 'starts'
first = not starts.exists()
with starts.open('a') as stream:
    stream.write(f'{os.getpid()}\\n')
time.sleep(600 if first else 0)
"""


def parent(process: int) -> int:
    """The process that started a process."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.long
@pytest.mark.parametrize(("name", "package", "settings"), [("local", "submitit", {}), ("ray", "ray", {"num_cpus": 0})])
def test_the_job_of_a_killed_worker_is_taken_up_by_another(tmp_path: Path, name: str, package: str, settings: dict):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    jobs = [
        {"name": "killed", "study": "study", "command": f'-c "{CODE}"', "priority": 1},
        {"name": "other", "study": "study", "command": "-c pass"},
    ]
    (tmp_path / "queue.yaml").write_text(yaml.safe_dump({"jobs": jobs, "executors": {name: settings}}))
    arguments = ["--queue", "queue.yaml", "--executor", name, "--workers", "2"]
    process = start(QUEUE, arguments, tmp_path, program=(sys.executable,))
    starts = tmp_path / "runs" / "queue" / "killed" / "starts"
    wait_for(lambda: starts.exists() and starts.read_text().endswith("\n"), process, 120)
    worker = parent(int(starts.read_text()))
    os.kill(parent(worker), signal.SIGKILL)  # what the executor started: the worker and the job end with it
    done = finish(process, tmp_path, 240)
    assert done.status == 0, done.output
    assert "Traceback" not in done.output
    first, second = map(int, starts.read_text().split())
    assert first != second
    assert not Path(f"/proc/{first}").exists()
    rows = (tmp_path / "study" / "commands.jsonl").read_text().splitlines()
    assert sorted(json.loads(row)["job"] for row in rows) == ["killed", "other"]


def test_what_is_missing_or_wrong_is_named(tmp_path: Path):
    (tmp_path / "queue.yaml").write_text("jobs: []")
    queue = ("--queue", "queue.yaml", "--executor")
    if importlib.util.find_spec("ray") is None:
        assert "--executor ray: needs ray: pip install 'snnconv[ray]'" in fail(QUEUE, *queue, "ray", cwd=tmp_path)
    wrong = (*queue, "local", "--set", "timeout_min")
    assert "--set timeout_min: expected key=value, as in slurm_partition=gpu" in fail(QUEUE, *wrong, cwd=tmp_path)
    (tmp_path / "queue.yaml").write_text("{jobs: [], executors: {local: [1]}}")
    assert "queue.yaml: executors.local must be settings" in fail(QUEUE, *queue, "local", cwd=tmp_path)
    assert run(QUEUE, *queue, "condor", cwd=tmp_path).status == 2
