"""The terminal and the log file."""

import io
import logging
import sys

import rich
from rich.console import Console

from snnconv.runtime import distributed


def for_progress(visible: bool = True) -> Console:
    """The console for a progress bar: the terminal in the main process, else a console without output.

    (A disabled bar would print an empty line if there is no terminal; in a notebook rich requires ipywidgets.)
    """
    console = rich.get_console()
    shows = visible and console.is_terminal and not console.is_jupyter and distributed.is_main()
    return console if shows else Console(quiet=True)


class Handler(logging.Handler):
    """Prints log messages on rich's console, above a progress bar if there is one; ranks other than 0 print only errors."""

    def __init__(self) -> None:
        super().__init__()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show θ must not stop a run

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message without markup."""
        if not distributed.is_main() and record.levelno < logging.ERROR:
            return
        style = "red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else ""
        rich.get_console().print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)


class LogFile(logging.FileHandler):
    """A log file that ignores errors of writing; a full disk is reported when results cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore the error; the line is lost."""
