"""The real command line, each time in a process of its own, in a folder of its own, with nobody logged in anywhere."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forked import Forked

ROOT = Path(__file__).resolve().parents[2]
TRAIN, EVALUATE, CHECK = ROOT / "train.py", ROOT / "scripts" / "evaluate.py", ROOT / "scripts" / "check.py"
SMOKE = ("experiment=smoke", "data.test=100")
# With everything whose state a resumed run has to restore: shuffling, augmentation, momentum, averaged weights.
CROP = "{_target_: snnconv.data.augment.RandomCrop, padding: 1}"
LONG = (*SMOKE, "fit.epochs=12", "fit.ema=0.9", f"+data.augment=[{CROP}]", "explain.images=0")
RUN_FILES = {
    ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "ann.safetensors", "ann.json", "last.ckpt",
    "metrics.jsonl", "result.json", "accuracy_vs_timesteps.csv", "accuracy_vs_timesteps.png", "train.log",
    "explanation.json", "report.html",
}  # fmt: skip

# For one command of every script: in an interpreter that has imported nothing yet, as the user's.
FRESH: dict[str, Any] = {"program": (sys.executable,)}


@dataclass(frozen=True)
class Finished:
    status: int
    output: str  # stdout and stderr, as on the terminal

    @property
    def last_line(self) -> str:
        return self.output.rstrip().rpartition("\n")[2]


def environment(**changes: str) -> dict[str, str]:
    """The environment of a user who is logged in nowhere and has no data."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "SNNCONV", "HYDRA", "PYTEST"))
    }
    nobody = {"NETRC": os.devnull, "WANDB_CONFIG_DIR": str(Path(tempfile.gettempdir()) / "snnconv-nobody")}
    fixed = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return kept | nobody | fixed | changes


def start(
    script: Path | str,
    arguments: Sequence[str],
    cwd: Path,
    env: dict[str, str] | None = None,
    program: Sequence[str] | None = None,
    **options: Any,
) -> subprocess.Popen | Forked:
    """The command, running; its output goes to `<cwd>.out`, beside the folder.

    Forked where no `program` is named and nothing asks for an interpreter of its own.
    """
    if program is None and not options and str(script).endswith(".py") and _known_when_used(env):
        return Forked(Path(script), arguments, cwd, env or environment())
    command = [*(program or (sys.executable,)), str(script), *arguments]
    with Path(f"{cwd}.out").open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=env or environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )


def _known_when_used(env: dict[str, str] | None) -> bool:
    """Does an interpreter that has already started, and imported much, obey this environment?"""
    usual = environment()
    changed = {key for key, _ in (env or usual).items() ^ usual.items()}
    return all(key.startswith(("SNNCONV_", "WANDB_")) for key in changed)


def finish(process: subprocess.Popen | Forked, cwd: Path, timeout: float = 120) -> Finished:
    """Wait for a command that `start` started in `cwd`."""
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Finished(status, Path(f"{cwd}.out").read_text(errors="replace"))


def run(script: Path | str, *arguments: str, cwd: Path, timeout: float = 120, **options: Any) -> Finished:
    """The command, from beginning to end."""
    return finish(start(script, arguments, cwd, **options), cwd, timeout)


def succeed(script: Path, *arguments: str, cwd: Path, **options: Any) -> str:
    """The output of a command that must succeed, without warnings."""
    done = run(script, *arguments, cwd=cwd, **options)
    assert done.status == 0, done.output
    assert "Traceback" not in done.output
    assert "Warning" not in done.output
    return done.output


def fail(script: Path, *arguments: str, cwd: Path, **options: Any) -> str:
    """The output of a command that must fail as the user's mistakes do: status 1 and a message, no traceback."""
    done = run(script, *arguments, cwd=cwd, **options)
    assert done.status == 1, done.output
    assert "Traceback" not in done.output, done.output
    return done.output


def only_run(cwd: Path) -> Path:
    """The one run folder under `cwd`."""
    (folder,) = [path.parent for path in cwd.glob("runs/*/*/.hydra") if path.parents[1].name != "sweeps"]
    return folder


def files_in(folder: Path) -> set[str]:
    """The files of a run folder, by their path in it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def wait_for(condition: Callable[[], Any], process: subprocess.Popen | Forked, timeout: float = 60) -> Any:
    """Wait until `condition` returns a true value while `process` runs, and return it."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if value := condition():
            return value
        assert process.poll() is None, f"the process ended with status {process.returncode} before its time"
        time.sleep(0.002)
    raise AssertionError("nothing happened in time")


needs_proc = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="finds processes in /proc"
)


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def epochs_done(cwd: Path) -> int:
    """Number of epochs that the run under `cwd` has finished."""
    return sum(path.read_bytes().count(b"\n") for path in cwd.glob("runs/*/*/metrics.jsonl"))


def kill_after(
    epochs: int, process: subprocess.Popen | Forked, cwd: Path, how: signal.Signals = signal.SIGKILL
) -> None:
    """Send a signal to the run in `cwd` when it has finished that many epochs."""
    wait_for(lambda: epochs_done(cwd) >= epochs, process)
    process.send_signal(how)


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run computed, without what names or times the process that did."""
    result = json.loads((folder / "result.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    description = json.loads((folder / "ann.json").read_text())
    return {
        "files": files_in(folder) - {f".hydra/resumed/{name}.yaml" for name in ("config", "hydra", "overrides")},
        "network": (folder / "ann.safetensors").read_bytes(),
        "epochs": [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
        "result": {key: value for key, value in result.items() if key not in ("wall_seconds", "command", "commit")},
        "best": {key: value for key, value in description.items() if key != "commit"},
        "csv": (folder / "accuracy_vs_timesteps.csv").read_text(),
    }


def copy_run(folder: Path, to: Path) -> Path:
    """A run folder of one's own to damage."""
    return Path(shutil.copytree(folder, to))


def go_on(text: str, cwd: Path) -> None:
    """Type the command that a message tells the user to type."""
    (line,) = [line for line in text.splitlines() if line.startswith("To continue: ")]
    program, script, *arguments = shlex.split(line.removeprefix("To continue: "))
    assert (program, script) == ("python", str(TRAIN))
    succeed(TRAIN, *arguments, cwd=cwd)
