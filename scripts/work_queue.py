"""Work off a list of trainings, one at a time, at low priority; stop it at any time and start it again.

python scripts/work_queue.py                       runs what experiments/queue.yaml lists, the smallest priority first
python scripts/work_queue.py --list                shows the jobs and how far they are; --only NAME,… restricts either
python scripts/work_queue.py --retry               tries jobs that failed once more

A job runs in runs/queue/<name>, or in its own `folder`.  Ctrl-C and SIGTERM stop the run, which loses at most the epoch it
is in; after a SIGKILL the system stops it.  The next start resumes it (resume=…).  What a finished run measured is appended
to <study>/results.jsonl beside the queue file, with the name of the job, the commit and the overrides it was trained with
(`trained_with`).  A job is done when that file has its line.  The queue file is read again before every job.
"""

import argparse
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from snnconv.runtime import files  # noqa: E402
from snnconv.runtime.program import override  # noqa: E402
from snnconv.runtime.settings import WHOLE, one_of, require  # noqa: E402

WORK = Path("runs") / "queue"
GRACE = 60.0  # seconds that a run has to end when it is asked to
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}  # threads that wait leave the CPU to others
STATES = ("ready", "paused")
_RULES = {
    "name": (lambda value: isinstance(value, str) and value == Path(value).name and bool(value), "a name for a folder"),
    "study": (lambda value: isinstance(value, str) and bool(value), "a folder beside the queue file"),
    "overrides": (lambda value: isinstance(value, str), "the arguments of train.py, one string"),
    "priority": WHOLE,
    "state": one_of(*STATES),
}


@dataclass(frozen=True)
class Job:
    """One training, as the queue file lists it."""

    name: str
    study: str
    overrides: str  # of train.py; %recipe% stands for an entry of `recipes`
    priority: int = 100  # the smallest runs first
    state: str = "ready"  # ready | paused: listed, collected if it ends elsewhere, and not run
    folder: Path = field(default=Path())

    def __post_init__(self) -> None:
        require(self, _RULES, f"queue.{self.name}")  # type: ignore[arg-type]
        if self.folder == Path():
            object.__setattr__(self, "folder", WORK / self.name)

    @property
    def failure(self) -> Path:
        """The file that says why the job failed."""
        return WORK / f"{self.name}.failed"

    @property
    def log(self) -> Path:
        """The output of the run."""
        return WORK / f"{self.name}.log"

    def command(self) -> list[str]:
        """The command that starts or resumes it."""
        program = [sys.executable, str(ROOT / "train.py")]
        if (self.folder / "last.ckpt").is_file():
            return [*program, override("resume", str(self.folder))]
        return [*program, *shlex.split(self.overrides), override("hydra.run.dir", str(self.folder))]


def read_queue(path: Path) -> list[Job]:
    """The jobs of a queue file, the smallest priority first; ValueError that names what is wrong with it."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: no valid YAML ({error})") from error
    try:
        recipes, entries = content.get("recipes") or {}, content["jobs"]
        jobs = []
        for entry in entries:
            text = entry["overrides"]
            for name, overrides in recipes.items():
                text = text.replace(f"%{name}%", overrides)
            jobs.append(Job(**{**entry, "overrides": text, "folder": Path(entry.get("folder", ""))}))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: needs `jobs`, each with name, study and overrides ({error})") from error
    if len({job.name for job in jobs}) < len(jobs):
        raise ValueError(f"{path}: two jobs have the same name")
    return sorted(jobs, key=lambda job: job.priority)


class Queue:
    """The jobs of one file, and what is done of them."""

    def __init__(self, path: Path, only: Sequence[str]) -> None:
        self.path, self.only = path, only

    def jobs(self) -> list[Job]:
        """The jobs that are wanted; results of those that have ended are collected."""
        jobs = [job for job in read_queue(self.path) if not self.only or job.name in self.only]
        for job in jobs:
            self._collect(job)
        return jobs

    def next(self) -> Job | None:
        """The next job to run; None if nothing is left."""
        return next((job for job in self.jobs() if self.progress(job) in ("waiting", "interrupted")), None)

    def progress(self, job: Job) -> str:
        """done, paused, failed, interrupted or waiting."""
        if self._result(job):
            return "done"
        if job.state == "paused":
            return "paused"
        if job.failure.is_file():
            return "failed"
        return "interrupted" if (job.folder / "last.ckpt").is_file() else "waiting"

    def _results(self, job: Job) -> Path:
        return self.path.parent / job.study / "results.jsonl"

    def _result(self, job: Job) -> dict[str, Any] | None:
        return next((row for row in files.read_lines(self._results(job)) if row.get("job") == job.name), None)

    def _collect(self, job: Job) -> None:
        """Append the result of a finished run to those of its study, once."""
        source = job.folder / "result.json"
        if source.is_file() and not self._result(job):
            target = self._results(job)
            target.parent.mkdir(parents=True, exist_ok=True)
            files.append_line(target, {"job": job.name, **files.read_json(source)})

    def table(self) -> Table:
        """The jobs, how far they are, and what they gave."""
        table = Table(title=str(self.path))
        for column in ("job", "priority", "progress", "epochs", "ANN", "T=1", "T=2", "T=4", "T=8", "T=32"):
            table.add_column(column, justify="left" if column in ("job", "progress") else "right")
        for job in self.jobs():
            epochs = str(len(files.read_lines(job.folder / "metrics.jsonl")) or "")
            result = self._result(job) or {}
            curve = result.get("snn_accuracy", {})
            accuracies = [result.get("ann_accuracy"), *(curve.get(str(t)) for t in (1, 2, 4, 8, 32))]
            shown = ["" if value is None else f"{100 * value:.2f}" for value in accuracies]
            table.add_row(job.name, str(job.priority), self.progress(job), epochs, *shown)
        return table


class Stopped(Exception):  # noqa: N818  (no error)
    """The runner was asked to stop."""


def _stop(*_: Any) -> None:
    raise Stopped


def run(job: Job) -> int:
    """Run or resume `job`; its exit status.  Stops it if this process is stopped."""
    with job.log.open("ab") as log:
        process = subprocess.Popen(job.command(), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   env={**os.environ, **PASSIVE}, process_group=0, preexec_fn=_as_child(os.getpid()))  # fmt: skip
        try:
            return process.wait()
        finally:
            for number, patience in ((signal.SIGINT, GRACE), (signal.SIGKILL, None)):
                if process.poll() is None:
                    os.killpg(process.pid, number)
                    with suppress(subprocess.TimeoutExpired, Stopped):  # a second request: no more patience
                        process.wait(patience)


def _as_child(parent: int) -> Any:
    """Preparation of a run: take the lowest priority, and end if the runner is killed (Linux)."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        os.nice(19)
        if hasattr(libc, "prctl"):
            libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; SIGINT may be swallowed by an import
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def work(queue: Queue) -> None:
    """Run the jobs until none is left."""
    while job := queue.next():
        print(f"{time.strftime('%H:%M')}  {job.name}: {queue.progress(job)}, log in {job.log}", flush=True)
        status = run(job)
        if status or not (job.folder / "result.json").is_file():
            lines = job.log.read_text(errors="replace").strip().splitlines() or [""]
            files.write_text(job.failure, f"status {status}: {lines[-1]}\n")
            print(f"{job.name}: failed, {job.failure.read_text().strip()}", flush=True)


def main() -> None:
    """Read the arguments and work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", type=Path, default=ROOT / "experiments" / "queue.yaml")
    parser.add_argument("--only", default="", help="jobs by name, separated by commas")
    parser.add_argument("--list", action="store_true", help="show the jobs and run none")
    parser.add_argument("--retry", action="store_true", help="run jobs that failed again")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    try:
        queue = Queue(options.queue, only)
        if unknown := set(only) - {job.name for job in read_queue(options.queue)}:
            raise ValueError(f"--only {','.join(sorted(unknown))}: not in {options.queue}")
        if not options.list:
            WORK.mkdir(parents=True, exist_ok=True)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, _stop)
            with files.held(WORK):
                for job in queue.jobs() if options.retry else ():
                    job.failure.unlink(missing_ok=True)
                work(queue)
        Console(width=130).print(queue.table())
    except Stopped:
        sys.exit("Stopped; start it again to go on.")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
