"""The terminal: log lines that do not tear the progress bar."""

import logging

import rich


class Handler(logging.Handler):
    """Prints log messages through rich's console, above a live progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message, plainly."""
        style = "red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else ""
        rich.get_console().print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)
