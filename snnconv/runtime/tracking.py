"""Tracking of runs outside of their folders.  A failure of a tracking service never stops a run."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from snnconv.runtime import files

log = logging.getLogger(__name__)
Tables = Mapping[str, Sequence[Mapping[str, Any]]]  # rows with equal keys, by the name of the table


class Tracker:
    """Base class of trackers; by itself it reports nothing (`track=none`)."""

    def start(self, folder: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Start the run, or continue the run of `state` (from `resume_state`)."""

    def resume_state(self) -> dict[str, Any]:
        """The state from which `start` continues this run later."""
        return {}

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Report one epoch: numbers, and `thresholds`, θ by layer."""

    def result(
        self, result: Mapping[str, Any], tables: Tables, figure: Path, page: Path, artifacts: Sequence[Path]
    ) -> None:
        """Report the results: `result.json`; tables, including "accuracy_vs_timesteps"; figure, page, and other files.

        Other known tables: "firing_rates", and "confusion" (network, class, predicted, images).
        """

    def finish(self, failed: bool = False) -> None:
        """End tracking of this run; `failed` if it ended with an error."""

    def abandon(self) -> None:
        """Release all resources after a failure, instead of `finish`."""


class Jsonl(Tracker):
    """Adds one line per finished run, the content of its `result.json`, to a file shared by many runs (`track=jsonl`)."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        if self.file.is_dir():
            raise ValueError(
                f"track.file={file}: is a folder; name a file in it, for example {self.file / 'results.jsonl'}"
            )

    def start(self, folder: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Create the file, so that a place that cannot be written is reported at the start of the run."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.touch()

    def result(
        self, result: Mapping[str, Any], tables: Tables, figure: Path, page: Path, artifacts: Sequence[Path]
    ) -> None:
        """Append the result."""
        files.append_line(self.file, dict(result))


class Patient(Tracker):
    """Wraps a tracker: its first failure is reported and does not stop the run; afterwards it is no longer used."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker: Tracker = tracker
        self.lost: Tracker | None = None
        self.state: dict[str, Any] = {}

    def _try(self, act: Callable[[Tracker], Any]) -> Any:
        try:
            return act(self.tracker)
        except Exception as error:  # a service may raise errors of any type
            log.warning(
                "%s failed (%s: %s); the run continues without it",
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
        """The state from which `start` can continue, also after a failure."""
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
        """End tracking; if the tracker has failed, release its resources."""
        self._try(lambda tracker: tracker.finish(failed))
        if self.lost:
            with suppress(Exception):
                self.lost.abandon()
