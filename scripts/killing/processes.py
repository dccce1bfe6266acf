"""Commands in forks of this process, which end, are killed, or kill themselves at a file operation."""

import itertools
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from snnconv import cli


def start(cwd: Path, arguments: Sequence[str], write: int = 0) -> int:
    """Start a command in `cwd`; it kills itself at its file operation number `write` (0: never).  Returns the process id."""
    cwd.mkdir(exist_ok=True)
    if process := os.fork():
        return process
    os.chdir(cwd)
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _count_writes(write)
    try:
        cli.run(arguments[0], arguments[1:])
        os._exit(0)
    except SystemExit as stop:
        print(stop.code or "", flush=True)
        os._exit(int(bool(stop.code)))
    except BaseException:
        traceback.print_exc()
        os._exit(2)


def _count_writes(last: int) -> None:
    """Kill this process before its file operation number `last`, of the operations that `snnconv.runtime.files` uses."""
    count = itertools.count(1)

    def counted(function):
        def wrapped(*arguments, **options):
            if next(count) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapped

    os.fsync, os.replace, os.unlink = counted(os.fsync), counted(os.replace), counted(os.unlink)


def ended(process: int, after: float = 1e9) -> int:
    """Wait for a process and kill it `after` this many seconds; returns its exit status, negative if killed."""
    end = time.monotonic() + after
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        time.sleep(0.001)


def completed(cwd: Path, arguments: Sequence[str]) -> float:
    """Run a command without interruption and return its seconds; if it fails, print its output and exit."""
    begin = time.monotonic()
    if status := ended(start(cwd, arguments)):
        sys.exit(f"{' '.join(arguments)}: status {status}\n{(cwd / 'output').read_text()}")
    return time.monotonic() - begin
