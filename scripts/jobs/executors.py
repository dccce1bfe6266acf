"""Workers of a queue that other programs start: jobs of Slurm, processes of this machine (both through submitit), tasks of Ray.

A worker is the command line of work_queue.py.  `supervise` replaces workers that end too early, so the job of one that is killed
is resumed by another.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.progress import FREE, Queue

EXECUTORS = ("slurm", "local", "ray")
POLL = 2.0  # seconds
FORWARDED = ("SNNCONV_DATA", "SNNCONV_COMMIT", "PYTHONPATH")


@dataclass(frozen=True)
class Worker:
    """A worker that an executor has started."""

    done: Callable[[], bool]
    cancel: Callable[[], object]


Start = Callable[[Sequence[str]], Worker]


def executor(name: str, folder: Path, settings: Mapping[str, Any]) -> Start:
    """The function that starts a command on `slurm`, `local` or `ray`; its logs are in `folder` (not those of Ray).

    `settings` are those of submitit's `update_parameters` (timeout_min, slurm_partition, …), or of `ray.remote` (num_cpus, …), with
    `address` for a Ray cluster that runs already.  ImportError that names the missing extra.
    """
    try:
        return (_ray if name == "ray" else _submitit)(name, folder, dict(settings))
    except ModuleNotFoundError as error:
        extra = "ray" if name == "ray" else "cluster"
        raise ImportError(f"--executor {name}: needs {error.name}: pip install 'snnconv[{extra}]'") from error


def _submitit(name: str, folder: Path, settings: dict[str, Any]) -> Start:
    import submitit

    submit = submitit.AutoExecutor(folder=folder, cluster=name)
    submit.update_parameters(**settings)

    def start(command: Sequence[str]) -> Worker:
        job = submit.submit(subprocess.call, list(command))
        return Worker(job.done, job.cancel)

    return start


def _ray(name: str, folder: Path, settings: dict[str, Any]) -> Start:
    import ray

    address = settings.pop("address", None)
    variables = {key: os.environ[key] for key in FORWARDED if key in os.environ}
    ray.init(address, runtime_env={"env_vars": variables}, include_dashboard=False, log_to_driver=False)
    available = ray.cluster_resources()
    for key, name in {"num_cpus": "CPU", "num_gpus": "GPU"}.items() if address is None else ():
        if settings.get(key, 0) > available.get(name, 0):
            raise ValueError(
                f"--executor ray: {key}={settings[key]}, but there are {available.get(name, 0):g}; use --set {key}=…"
            )
    call = ray.remote(**{"max_retries": 0, **settings})(subprocess.call)

    def start(command: Sequence[str]) -> Worker:
        task = call.remote(list(command), cwd=os.getcwd())

        def done() -> bool:
            return bool(ray.wait([task], timeout=0)[0])

        return Worker(done, lambda: ray.cancel(task, force=True))

    return start


def supervise(queue: Queue, start: Start, command: Sequence[str], workers: int) -> None:
    """Keep up to `workers` workers while jobs are left and wait for all; RuntimeError if they end without results."""
    running: list[Worker] = []
    starts, limit = 0, workers + 2 * len(queue.jobs())
    try:
        while True:
            running = [worker for worker in running if not worker.done()]
            open_jobs = [job for job in queue.jobs() if queue.progress(job) in FREE]
            free = [job for job in open_jobs if not queue.is_running(job)]
            if not open_jobs and not running:
                return
            if free and len(running) < min(workers, len(open_jobs)):
                if starts == limit:
                    raise RuntimeError(
                        f"{starts} workers were started and {len(free)} jobs are still open; see the logs"
                    )
                running.append(start(command))
                starts += 1
            else:
                time.sleep(POLL)
    finally:
        for worker in running:
            worker.cancel()
