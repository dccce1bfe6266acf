"""One job in a process of its own, at low priority, for a limited time."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

GRACE = 60.0  # seconds that a process has to end when it is asked to
SHORT_GRACE = 20.0  # the same if the time is limited
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}  # threads that wait leave the CPU to others


class Stopped(Exception):  # noqa: N818  (no error)
    """This process was asked to stop."""


def stop_on_signals() -> None:
    """Raise `Stopped` at Ctrl-C and SIGTERM."""

    def stop(*_: Any) -> None:
        raise Stopped

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def run(
    words: Sequence[str], log: Path, changes: Mapping[str, str], seconds: float | None = None, hold: Sequence[int] = ()
) -> int | None:
    """The exit status of `python <words>`, or None if it was stopped because `seconds` were over.

    Its output is appended to `log`; `changes` are variables of its environment; `hold` are file descriptors that stay open in it.
    The process is stopped if this one is stopped or killed.
    """
    with log.open("ab") as stream:
        process = subprocess.Popen([sys.executable, *words], stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                                   env={**os.environ, **PASSIVE, **changes}, process_group=0, pass_fds=hold,
                                   preexec_fn=_as_child(os.getpid()))  # fmt: skip
        try:
            return process.wait(None if seconds is None else max(seconds - SHORT_GRACE, 0))
        except subprocess.TimeoutExpired:
            return None
        finally:
            for number, patience in (
                (signal.SIGINT, GRACE if seconds is None else SHORT_GRACE),
                (signal.SIGKILL, None),
            ):
                if process.poll() is None:
                    os.killpg(process.pid, number)
                    with suppress(subprocess.TimeoutExpired, Stopped):  # a second request: no more patience
                        process.wait(patience)


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Let the system send this signal to this process when its parent ends (Linux)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(1, number)  # PR_SET_PDEATHSIG


def _as_child(parent: int) -> Callable[[], None]:
    """Preparation of a process: take the lowest priority, and end if the parent is killed (Linux)."""
    ctypes.CDLL(None)  # loaded before the fork

    def prepare() -> None:
        os.nice(19)
        end_with_parent(signal.SIGKILL)  # SIGINT may be swallowed by an import
        if os.getppid() != parent:
            os._exit(1)

    return prepare
