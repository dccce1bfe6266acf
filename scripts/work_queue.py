"""Work off a list of jobs, one at a time, at low priority; stop it at any time and start it again.

python scripts/work_queue.py                       runs what experiments/queue.yaml lists, the smallest priority first
python scripts/work_queue.py --list                shows the jobs and how far they are; --only NAME,… restricts either
python scripts/work_queue.py --retry               tries jobs that failed once more
python scripts/work_queue.py --machine gpu         runs the jobs that need a GPU (`make gpu`); default: those of a CPU

A job runs in runs/queue/<name>, or in its own `folder`.  Ctrl-C and SIGTERM stop the run, which loses at most the epoch it
is in; after a SIGKILL the system stops it.  The next start resumes it (resume=…).  What a finished run measured is appended
to <study>/results.jsonl beside the queue file, with the name of the job, the commit and the overrides it was trained with
(`trained_with`).  A job is done when that file has its line.  The queue file is read again before every job.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jobs.program import add_arguments, run_program  # noqa: E402
from jobs.progress import Queue  # noqa: E402


def main() -> None:
    """Read the arguments and work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", type=Path, default=ROOT / "experiments" / "queue.yaml")
    parser.add_argument("--machine", choices=("cpu", "gpu", "any"), default="cpu", help="jobs of this machine only")
    add_arguments(parser, seconds=float("inf"))
    options = parser.parse_args()
    run_program(partial(Queue, options.queue, options.only, options.machine), options)


if __name__ == "__main__":
    main()
