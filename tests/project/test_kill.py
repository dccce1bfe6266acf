"""Killed commands: a few seeds of scripts/kill.py, and its comparison."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from killing.outcome import outcome

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 4])
def test_a_killed_command_loses_nothing(seed):
    """Of `finetune` and `compress`; a process of its own, since it forks."""
    command = [sys.executable, "scripts/kill.py", str(seed), str(seed + 1)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 losses" in done.stdout


def test_the_comparison_sees_numbers_and_not_times(tmp_path):
    for name, result in (
        ("one", {"seconds": 1, "loss": 0.5}),
        ("two", {"seconds": 2, "loss": 0.5}),
        ("three", {"loss": 0.4}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result))
        (tmp_path / name / "train.log").write_text(name)
    one, two, three = (outcome(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two != three
    (tmp_path / "two" / "ann.safetensors").touch()
    assert outcome(tmp_path / "two") != one
