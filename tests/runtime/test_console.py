"""Progress bars appear in a terminal of the main process, and nowhere else."""

import rich
from rich.console import Console

from snnconv.runtime.console import for_progress


def _progress_with(monkeypatch, **kinds):
    monkeypatch.setattr(rich, "get_console", lambda: Console(**kinds))
    return for_progress()


def test_a_bar_needs_a_terminal_that_is_no_notebook(monkeypatch):
    assert not _progress_with(monkeypatch, force_terminal=True, force_jupyter=False).quiet
    assert _progress_with(monkeypatch, force_terminal=False, force_jupyter=False).quiet
    assert _progress_with(monkeypatch, force_terminal=True, force_jupyter=True).quiet
