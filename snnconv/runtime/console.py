"""The terminal and the log file."""

import io
import logging
import sys

import rich
from rich.console import Console

from snnconv.runtime import distributed


def for_progress(visible: bool = True) -> Console:
    """The console for a progress bar: that of the terminal in the main process, else one that stays empty.

    A bar that is only disabled leaves an empty line where there is no terminal; in a notebook rich asks for ipywidgets.
    """
    console = rich.get_console()
    shows = visible and console.is_terminal and not console.is_jupyter and distributed.is_main()
    return console if shows else Console(quiet=True)


class Handler(logging.Handler):
    """Prints log messages through rich's console, above a live progress bar if there is one; ranks other than 0 only errors."""

    def __init__(self) -> None:
        super().__init__()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show θ stops no run

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message, plainly."""
        if not distributed.is_main() and record.levelno < logging.ERROR:
            return
        style = "red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else ""
        rich.get_console().print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)


class LogFile(logging.FileHandler):
    """A log file that says nothing when it cannot be written: a full disk is reported by what matters more."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Lose the line."""
