"""Progress of the jobs of one queue file, kept in files, so that several workers can share a queue.

A worker locks the job that it runs (`flock` of <work>/<name>.lock).  The lock is inherited by the job's process and ends with
both, also if they are killed, so a job is either done, failed, running, or free for another worker.
"""

import os
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from jobs.queue_file import Job, read_queue
from jobs.running import run
from snnconv.runtime import files
from snnconv.runtime.program import override

ROOT = Path(__file__).resolve().parents[2]
FREE = ("waiting", "interrupted")
LEAST = 30.0  # seconds; no job is started for less


@dataclass(frozen=True)
class Queue:
    """The jobs of a file, the folder in which they run and the one in which results are collected.

    `tiny`: a rehearsal on a CPU, every job with its own `tiny` arguments.
    """

    file: Path
    only: Sequence[str] = ()
    machine: str = "cpu"  # cpu | gpu | any
    work: Path = Path("runs") / "queue"
    results: Path | None = None  # default: beside the queue file
    tiny: bool = False
    shared: bool = False  # other workers run jobs of this queue

    def __post_init__(self) -> None:
        names = {job.name for job in read_queue(self.file)}
        if unknown := sorted(set(self.only) - names):
            raise ValueError(f"--only {','.join(unknown)}: not in {self.file}")

    def jobs(self) -> list[Job]:
        """The jobs that are wanted; results of those that have ended are collected."""
        jobs = [job for job in read_queue(self.file) if self._wanted(job)]
        self._collect(jobs)
        return jobs

    def claim(self, claims: ExitStack, left: float) -> tuple[Job, int | None] | None:
        """The next free job that fits into `left` seconds and the handle of its lock, held by `claims`; None: nothing to do."""
        for job in self.jobs():
            if self.progress(job) in FREE and left >= max(job.seconds, LEAST):
                self.work.mkdir(parents=True, exist_ok=True)
                lock = self._path(job, "lock")
                lock.touch()
                for pause in (0.1, 0.0):  # `is_running` of another process may hold the lock for a moment
                    with suppress(BlockingIOError):
                        handle = claims.enter_context(files.held(lock, strict=self.shared))
                        if self.progress(job) in FREE:  # still, now that nobody else can change it
                            return job, handle
                        break
                    time.sleep(pause)
        return None

    def run(self, job: Job, left: float, handle: int | None) -> None:
        """Run or resume a claimed job for at most `left` seconds, and record its result or its failure."""
        folder, log, start = self.folder(job), self._path(job, "log"), time.monotonic()
        print(f"{time.strftime('%H:%M')}  {job.name}: {self.progress(job)}, log in {log}", flush=True)
        if not job.trains:
            folder.mkdir(parents=True, exist_ok=True)
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.tiny else {}
        limit = None if left == float("inf") else left
        status = run(self._words(job), log, hidden, limit, [] if handle is None else [handle])
        lines = log.read_text(errors="replace").strip().splitlines() or [""]
        if status == 0 and not job.trains and not (folder / "result.json").is_file():
            files.write_json(folder / "result.json", _outcome(lines, time.monotonic() - start))
        if status or (status == 0 and not (folder / "result.json").is_file()):
            files.write_text(self._path(job, "failed"), f"status {status}: {lines[-1]}\n")
            print(f"{job.name}: failed, status {status}: {lines[-1]}", flush=True)

    def progress(self, job: Job) -> str:
        """done, paused, failed, no data, interrupted or waiting (`is_running` tells the last two apart from a running job)."""
        folder = self.folder(job)
        if self._result(job) or (folder / "result.json").is_file():
            return "done"
        if job.state == "paused":
            return "paused"
        if self._path(job, "failed").is_file():
            return "failed"
        if job.data and not self.tiny and not (Path(os.environ.get("SNNCONV_DATA", "data")) / job.data).is_dir():
            return "no data"
        return "interrupted" if (folder / "last.ckpt").is_file() else "waiting"

    def is_running(self, job: Job) -> bool:
        """True if a worker holds the job."""
        lock = self._path(job, "lock")
        try:
            with files.held(lock) if lock.exists() else nullcontext():
                return False
        except BlockingIOError:
            return True

    def retry(self) -> None:
        """Forget failures."""
        for job in self.jobs():
            self._path(job, "failed").unlink(missing_ok=True)

    def folder(self, job: Job) -> Path:
        """Folder of a job's run."""
        return Path(job.folder) if job.folder and not self.tiny else self.work / job.name

    def table(self) -> Table:
        """The jobs with their progress and accuracies."""
        table = Table(title=str(self.file))
        for column in ("job", "priority", "progress", "epochs", "ANN", "T=1", "T=2", "T=4", "T=8", "T=32"):
            words = column in ("job", "progress")
            table.add_column(column, justify="left" if words else "right", no_wrap=column == "progress")
        for job in self.jobs():
            epochs = str(len(files.read_lines(self.folder(job) / "metrics.jsonl")) or "")
            result = self._result(job) or {}
            curve = result.get("snn_accuracy", {})
            accuracies = [result.get("ann_accuracy"), *(curve.get(str(t)) for t in (1, 2, 4, 8, 32))]
            shown = ["" if value is None else f"{100 * value:.2f}" for value in accuracies]
            progress = "running" if self.is_running(job) else self.progress(job)
            table.add_row(job.name, str(job.priority), progress, epochs, *shown)
        return table

    def _wanted(self, job: Job) -> bool:
        if self.only:
            return job.name in self.only
        return self.machine in ("any", job.machine) and not (self.tiny and not job.tiny)

    def _words(self, job: Job) -> list[str]:
        """The arguments of python that start or resume a job."""
        folder, tiny = self.folder(job), shlex.split(job.tiny) if self.tiny else []
        if not job.trains:
            words = [word.replace("%folder%", str(folder)) for word in shlex.split(job.command)]
            return [*(str(ROOT / word) if (ROOT / word).is_file() else word for word in words), *tiny]
        if (folder / "last.ckpt").is_file():
            return [str(ROOT / "train.py"), override("resume", str(folder))]
        return [str(ROOT / "train.py"), *shlex.split(job.overrides), *tiny, override("hydra.run.dir", str(folder))]

    def _path(self, job: Job, ending: str) -> Path:
        return self.work / f"{job.name}.{ending}"

    def _results(self, job: Job) -> Path:
        name = "results.jsonl" if job.trains else "commands.jsonl"
        return (self.results or self.file.parent) / job.study / name

    def _result(self, job: Job) -> dict[str, Any] | None:
        return next((row for row in files.read_lines(self._results(job)) if row.get("job") == job.name), None)

    def _collect(self, jobs: Sequence[Job]) -> None:
        """Append the results of finished jobs to those of their studies, each once; another worker may be doing it."""
        root = self.results or self.file.parent
        root.mkdir(parents=True, exist_ok=True)
        with suppress(BlockingIOError), files.held(root):
            for job in jobs:
                source, target = self.folder(job) / "result.json", self._results(job)
                if source.is_file() and not self._result(job):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    files.append_line(target, {"job": job.name, **files.read_json(source)})


def _outcome(lines: Sequence[str], seconds: float) -> dict[str, Any]:
    """The result of a command that wrote none: the end of its output."""
    from snnconv.runtime import environment

    versions = environment.versions()
    facts = {"device": versions.get("gpu", "cpu"), "versions": versions, "commit": environment.commit()}
    return {"seconds": round(seconds, 1), "output": lines[-20:], **facts}


def work(queue: Queue, seconds: float = float("inf")) -> None:
    """Run the jobs until none is left that fits into the rest of `seconds`."""
    end = time.monotonic() + seconds
    while True:
        with ExitStack() as claims:
            claimed = queue.claim(claims, end - time.monotonic())
            if claimed is None:
                return
            job, handle = claimed
            queue.run(job, end - time.monotonic(), handle)
