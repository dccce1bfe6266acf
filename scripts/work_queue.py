"""Work off a list of jobs, one at a time, at low priority; stop it at any time and start it again.

python scripts/work_queue.py                       runs what experiments/queue.yaml lists, the smallest priority first
python scripts/work_queue.py --list                shows the jobs and how far they are; --only NAME,… restricts either
python scripts/work_queue.py --retry               tries jobs that failed once more
python scripts/work_queue.py --machine gpu         runs the jobs that need a GPU (`make gpu`); default: those of a CPU
python scripts/work_queue.py --executor slurm --workers 4 --set slurm_partition=gpu
                                                   runs several at once on a cluster (slurm | ray) or here (local)

A job runs in runs/queue/<name>, or in its own `folder`.  Ctrl-C and SIGTERM stop the run, which loses at most the epoch it
is in; after a SIGKILL the system stops it.  The next start resumes it (resume=…).  What a finished run measured is appended
to <study>/results.jsonl beside the queue file, with the name of the job, the commit and the overrides it was trained with
(`trained_with`).  A job is done when that file has its line.  The queue file is read again before every job.

With --executor this process starts workers, replaces those that are killed, and ends with the last job.  The workers need the
folder of this process on a file system that they share and that supports file locks.  `executors` of the queue file holds the
settings of submitit or Ray; --set adds to them.
"""

import argparse
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jobs.executors import EXECUTORS, executor, supervise  # noqa: E402
from jobs.program import add_arguments, run_program  # noqa: E402
from jobs.progress import Queue  # noqa: E402
from jobs.queue_file import read_settings  # noqa: E402
from jobs.running import end_with_parent  # noqa: E402


def main() -> None:
    """Read the arguments and work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", type=Path, default=ROOT / "experiments" / "queue.yaml")
    parser.add_argument("--machine", choices=("cpu", "gpu", "any"), default="cpu", help="jobs of this machine only")
    parser.add_argument("--executor", choices=EXECUTORS, help="start workers with this program")
    parser.add_argument("--workers", type=int, default=2, help="jobs at the same time with --executor (default: 2)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the executor")
    parser.add_argument(
        "--worker", action="store_true", help=argparse.SUPPRESS
    )  # one of several, started by an executor
    add_arguments(parser, seconds=float("inf"))
    options = parser.parse_args()
    if options.worker:
        end_with_parent()

    def queue() -> Queue:
        return Queue(options.queue.resolve(), options.only, options.machine, shared=options.worker)

    def cluster(queue: Queue) -> None:
        settings = read_settings(queue.file, options.executor) | dict(map(setting, options.set))
        start = executor(options.executor, queue.work / "workers", settings)
        supervise(queue, start, worker_command(options), options.workers)

    run_program(queue, options, cluster if options.executor else None)


def worker_command(options: argparse.Namespace) -> list[str]:
    """The command line of one worker."""
    only = ["--only", ",".join(options.only)] if options.only else []
    chosen = ["--queue", str(options.queue.resolve()), "--machine", options.machine, "--seconds", str(options.seconds)]
    return [sys.executable, str(Path(__file__).resolve()), "--worker", *chosen, *only]


def setting(text: str) -> tuple[str, object]:
    """`key=value` as a pair; ValueError without a "="."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: expected key=value, as in slurm_partition=gpu")
    return key, yaml.safe_load(value)


if __name__ == "__main__":
    main()
