"""`scripts/gpu.py`, rehearsed on the CPU: a slice ends in time, and the next one goes on where it ended."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, environment, fail, finish, run, start, succeed, wait_for

pytestmark = pytest.mark.cli

GPU = ROOT / "scripts" / "gpu.py"
REHEARSAL = ("--device", "cpu", "--tiny", "--out", "out")
PAPER, FAST = "cifar10_vgg16_qcfs", "cifar10_vgg16_fast-1"


def known(cwd: Path, job: str) -> dict[str, Any]:
    return json.loads((cwd / "out" / "state.json").read_text())["jobs"][job]


@pytest.mark.long
def test_a_training_over_several_slices(tmp_path: Path):
    """One that ends before anything has begun, one that Ctrl-C ends in the middle, one that comes to the end."""
    begin = time.monotonic()
    text = succeed(GPU, *REHEARSAL, "--only", PAPER, "--minutes", "0.002", cwd=tmp_path)
    assert time.monotonic() - begin < 60
    assert re.search(rf"{PAPER} +│ unfinished .* 0 epochs", text)

    work = tmp_path / "runs" / "gpu-tiny"
    process = start(GPU, [*REHEARSAL, "--only", PAPER], tmp_path)
    metrics = work / PAPER / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 3, process)
    os.kill(process.pid, signal.SIGINT)
    done = finish(process, tmp_path)
    assert done.status == 0, done.output
    assert (known(tmp_path, PAPER)["status"], known(tmp_path, PAPER)["slices"]) == ("unfinished", 1)

    text = succeed(GPU, *REHEARSAL, "--only", PAPER, cwd=tmp_path)
    log = (work / f"{PAPER}.log").read_text()
    assert "Resuming after epoch " in log
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == list(range(40))
    (result,) = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert (result["job"], result["levels"], result["data"]) == (PAPER, 4, "synthetic")
    assert re.search(rf"{PAPER} +│ done .* ANN {100 * result['ann_accuracy']:.2f}", text)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"state.json", "results.jsonl", "curves.png"}
    assert (
        PAPER not in succeed(GPU, *REHEARSAL, "--only", PAPER, cwd=tmp_path).partition("job")[0]
    )  # nothing left to do


def test_another_machine_goes_on_with_what_it_has(tmp_path: Path):
    """The state came along, the run folder did not; and there is no data."""
    (tmp_path / "out").mkdir()
    jobs = {
        PAPER: {"status": "done", "minutes": 9.0, "slices": 1, "note": "ANN 95.00"},
        FAST: {"status": "unfinished", "minutes": 3.0, "slices": 1, "note": "7 epochs"},
    }
    (tmp_path / "out" / "state.json").write_text(json.dumps({"machines": ["a GPU"], "jobs": jobs}))
    arguments = (*REHEARSAL, "--only", f"{PAPER},{FAST}")
    succeed(GPU, *arguments, "--minutes", "0.002", cwd=tmp_path)
    assert known(tmp_path, PAPER) == jobs[PAPER]
    assert (known(tmp_path, FAST)["slices"], known(tmp_path, FAST)["note"]) == (1, "0 epochs")

    real = ("--device", "cpu", "--out", "out", "--data", "nowhere", "--only", FAST)
    assert "no cifar-10-batches-py in --data" in succeed(GPU, *real, cwd=tmp_path)


def test_the_plan_and_what_is_no_plan(tmp_path: Path):
    text = succeed(GPU, "--dry", cwd=tmp_path)
    assert text.index("tests") < text.index("cifar10_vgg16_fast-0") < text.index("cifar10_vgg16_qcfs")
    assert not list(tmp_path.iterdir())
    wrong = run(GPU, "--only", "nothing", cwd=tmp_path)
    assert (wrong.status, "choose from tests, cifar10_vgg16_fast-0" in wrong.output) == (2, True)
    env = environment(CUDA_VISIBLE_DEVICES="")
    assert "sees no CUDA device here; to rehearse: --device cpu --tiny" in fail(
        GPU, "--out", "out", cwd=tmp_path, env=env
    )
