"""The part that `work_queue.py` and `gpu.py` share."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import nullcontext

from rich.console import Console

from jobs.progress import Queue, work
from jobs.running import Stopped, stop_on_signals
from snnconv.runtime import files


def add_arguments(parser: ArgumentParser, seconds: float) -> None:
    """The arguments that both programs have; `seconds` is the default budget."""
    parser.add_argument("--only", type=_names, default=[], help="jobs by name, separated by commas")
    parser.add_argument("--list", action="store_true", help="show the jobs and run none")
    parser.add_argument("--retry", action="store_true", help="run jobs that failed again")
    parser.add_argument("--seconds", type=float, default=seconds,
                        help="stop after so many seconds; the next call resumes (default: %(default)s)")  # fmt: skip


def run_program(build: Callable[[], Queue], options: Namespace, act: Callable[[Queue], None] | None = None) -> None:
    """Work off the queue (by `act`) and print its jobs; a mistake or a signal ends the process with one line."""
    try:
        queue = build()
        if not options.list:
            queue.work.mkdir(parents=True, exist_ok=True)
            stop_on_signals()
            with nullcontext() if queue.shared else files.held(queue.work):
                if options.retry:
                    queue.retry()
                act(queue) if act else work(queue, options.seconds)
        Console(width=130).print(queue.table())
    except Stopped:
        sys.exit("Stopped; start it again to go on.")
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        sys.exit(str(error))


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]
