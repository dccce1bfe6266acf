"""`torchrun`: the same job on two processes; one folder, one voice, and counts as if it were one process."""

import json
from pathlib import Path

import pytest
from command import EVALUATE, RUN_FILES, TRAIN, environment, files_in, only_run, run, succeed

pytestmark = pytest.mark.cli

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def torchrun(script: Path, *arguments: str, cwd: Path, **options):
    """The command on two processes."""
    return run(TORCHRUN[0], *TORCHRUN[1:], str(script), *arguments, cwd=cwd, **options)


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


def test_an_error_of_the_user_ends_all_processes(tmp_path: Path):
    done = torchrun(TRAIN, "experiment=smoke", "levels=0", cwd=tmp_path)
    assert done.status == 1
    assert "levels=0: the number of quantization levels is a whole number of at least 1" in done.output
