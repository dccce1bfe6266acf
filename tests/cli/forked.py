"""Commands that run as `python script …` does, forked from a process that has imported torch once: seconds less for each."""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent


class Forked:
    """The part of `subprocess.Popen` that tests need, for a command in a fork."""

    def __init__(self, script: Path, arguments: Sequence[str], cwd: Path, env: dict[str, str]) -> None:
        Path(f"{cwd}.out").write_bytes(b"")  # there as soon as this returns
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["preload"])
        self._process = context.Process(target=_main, args=(str(script), list(arguments), str(cwd), env))
        before = dict(os.environ)
        os.environ.update(env)  # of the server too, which starts with the first command
        os.environ["PYTHONPATH"] += f"{os.pathsep}{HERE}"  # where it finds `preload`
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs, −n where signal n ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """`returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """`returncode` when it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a forked command", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing where it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it ends just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _main(script: str, arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    """In the fork: what an interpreter does around a script."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as in a process of its own
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
    output = os.open(f"{cwd}.out", os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [script, *arguments]
    sys.path[:] = [str(Path(script).parent), *(path for path in sys.path if HERE.parent not in Path(path, "_").parents)]
    status = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if status == 1 and stop.code != 1:
            sys.stderr.write(f"{stop.code}\n")
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()  # which a fork of multiprocessing leaves out
    sys.stdout.flush()
    sys.exit(status)
