"""Reports of a run besides its own folder.  A tracking service that fails never stops the run."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from snnconv.runtime import files

log = logging.getLogger(__name__)
Tables = Mapping[str, Sequence[Mapping[str, Any]]]  # rows with equal keys, by the name of the table


class Tracker:
    """Reports nowhere (`track=none`), and what every tracker can do."""

    def start(self, folder: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Begin, or continue the run that `state` (from `resume_state`) names."""

    def resume_state(self) -> dict[str, Any]:
        """The state from which `start` continues this run later."""
        return {}

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Report one epoch: numbers, and `thresholds`, θ by layer."""

    def result(
        self, result: Mapping[str, Any], tables: Tables, figure: Path, page: Path, artifacts: Sequence[Path]
    ) -> None:
        """Report the outcome: `result.json`; tables, "accuracy_vs_timesteps" among them; picture, page, files worth keeping.

        Known tables besides: "firing_rates", and "confusion" (network, class, predicted, images).
        """

    def finish(self, failed: bool = False) -> None:
        """End the report."""

    def abandon(self) -> None:
        """Instead of `finish` after a failure: let go of whatever is still open."""


class Jsonl(Tracker):
    """Adds one line per finished run, the content of its `result.json`, to a file shared by many runs (`track=jsonl`)."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def result(
        self, result: Mapping[str, Any], tables: Tables, figure: Path, page: Path, artifacts: Sequence[Path]
    ) -> None:
        """Append the result."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        files.append_line(self.file, dict(result))


class Patient(Tracker):
    """Another tracker whose failures are reported once and never stop the run; after one it is left alone."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker: Tracker = tracker
        self.lost: Tracker | None = None
        self.state: dict[str, Any] = {}

    def _try(self, act: Callable[[Tracker], Any]) -> Any:
        try:
            return act(self.tracker)
        except Exception as error:  # whatever a service can do to us
            log.warning(
                "%s failed (%s: %s); the run goes on without it",
                type(self.tracker).__name__,
                type(error).__name__,
                error,
            )
            self.lost, self.tracker = self.tracker, Tracker()
            return act(self.tracker)

    def start(self, folder: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Begin."""
        self.state = dict(state)
        self._try(lambda tracker: tracker.start(folder, config, state))

    def resume_state(self) -> dict[str, Any]:
        """The state from which `start` continues, also after a failure."""
        self.state |= self._try(lambda tracker: tracker.resume_state())
        return self.state

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Report one line."""
        self._try(lambda tracker: tracker.log(metrics))

    def result(
        self, result: Mapping[str, Any], tables: Tables, figure: Path, page: Path, artifacts: Sequence[Path]
    ) -> None:
        """Report the outcome."""
        self._try(lambda tracker: tracker.result(result, tables, figure, page, artifacts))

    def finish(self, failed: bool = False) -> None:
        """End the report, or what is left of it."""
        self._try(lambda tracker: tracker.finish(failed))
        if self.lost:
            with suppress(Exception):
                self.lost.abandon()
