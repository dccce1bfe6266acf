"""Where a run is reported besides its own folder.  Losing the tracking service never loses the run."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from snnconv.runtime import files

log = logging.getLogger(__name__)


class Tracker:
    """Reports nowhere (`track=none`), and what every tracker can do."""

    def start(self, folder: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Begin, or continue the run that `state` (from `resume_state`) names."""

    def resume_state(self) -> dict[str, Any]:
        """What `start` needs to continue this run later."""
        return {}

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Report one line of numbers."""

    def result(
        self, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], figure: Path, artifacts: Sequence[Path]
    ) -> None:
        """Report the outcome: `result.json`, the accuracy-vs-timesteps rows, their picture, files worth keeping."""

    def finish(self, failed: bool = False) -> None:
        """End the report."""


class Jsonl(Tracker):
    """Adds one line per finished run, the content of its `result.json`, to a file shared by many runs (`track=jsonl`)."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def result(
        self, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], figure: Path, artifacts: Sequence[Path]
    ) -> None:
        """Append the result."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        files.append_line(self.file, dict(result))


class Wandb(Tracker):
    """Weights & Biases (`track=wandb`): online when logged in, else an offline run and one line on how to sync it."""

    def __init__(
        self,
        project: str,
        entity: str | None = None,
        mode: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        self.options: dict[str, Any] = {"project": project, "entity": entity, "group": group, "tags": list(tags)}
        self.mode = mode
        self.run: Any = None
        self.offline = False

    def start(self, folder: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Open the run; offline if nobody is logged in or the server cannot be reached."""
        import wandb

        options = {
            **self.options,
            "dir": str(folder),
            "config": dict(config),
            "name": f"{folder.parent.name}/{folder.name}",
        }
        if "wandb_id" in state:
            options |= {"id": state["wandb_id"], "resume": "allow"}
        mode: Any = self.mode or ("online" if _logged_in() else "offline")
        try:
            self.run = wandb.init(mode=mode, settings=wandb.Settings(silent=True), **options)
        except Exception as error:  # wandb reports a lost network in many ways; the run must go on
            if mode == "offline":
                raise
            log.warning("W&B cannot be reached (%s); tracking offline", error)
            self.run = wandb.init(mode="offline", settings=wandb.Settings(silent=True), **options)
        self.offline = bool(self.run.settings._offline)
        self.run.define_metric("epoch", hidden=True)
        self.run.define_metric("fit/*", step_metric="epoch")
        self.run.define_metric("timesteps", hidden=True)
        self.run.define_metric("snn/*", step_metric="timesteps")
        log.info("W&B: %s", self._sync_hint() if self.offline else self.run.url)

    def _sync_hint(self) -> str:
        folder = Path(self.run.settings.sync_dir)
        return f"not logged in, so this run is tracked offline; to upload it: wandb login && wandb sync {folder}"

    def resume_state(self) -> dict[str, Any]:
        """The run's W&B identity."""
        return {"wandb_id": self.run.id}

    def log(self, metrics: Mapping[str, Any]) -> None:
        """One epoch: curves under `fit/`, against `epoch`."""
        self.run.log(
            {"epoch": metrics["epoch"], **{f"fit/{key}": value for key, value in metrics.items() if key != "epoch"}}
        )

    def result(
        self, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], figure: Path, artifacts: Sequence[Path]
    ) -> None:
        """The curve point by point against its own `timesteps` axis, as a table and as a picture; the network as an artifact."""
        import wandb

        for row in rows:
            self.run.log({"timesteps": row["timesteps"], "snn/accuracy": row["accuracy"], "snn/gap": row["gap"]})
        table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        self.run.log({"accuracy_vs_timesteps": table, "accuracy_vs_timesteps_plot": wandb.Image(str(figure))})
        self.run.summary.update(
            {f"result/{key}": value for key, value in result.items() if isinstance(value, int | float | str)}
        )
        self.run.summary["result/snn_accuracy"] = rows[-1]["accuracy"]
        artifact = wandb.Artifact(f"ann-{self.run.id}", type="model", metadata={"ann_accuracy": result["ann_accuracy"]})
        for path in artifacts:
            artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def finish(self, failed: bool = False) -> None:
        """Close the run and, if it is offline, repeat how to upload it."""
        self.run.finish(exit_code=int(failed))
        if self.offline:
            log.info("W&B: %s", self._sync_hint())


def _logged_in() -> bool:
    """Does W&B know who we are, without asking anybody?"""
    import requests
    import wandb

    settings = wandb.Settings()
    return bool(settings.api_key or settings.identity_token_file or requests.utils.get_netrc_auth(settings.base_url))


class Patient(Tracker):
    """Another tracker whose failures are reported once and never stop the run; after one it is left alone."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker: Tracker = tracker
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
            self.tracker = Tracker()
            return act(self.tracker)

    def start(self, folder: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Begin."""
        self.state = dict(state)
        self._try(lambda tracker: tracker.start(folder, config, state))

    def resume_state(self) -> dict[str, Any]:
        """What `start` needs to continue, also after a failure."""
        self.state |= self._try(lambda tracker: tracker.resume_state())
        return self.state

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Report one line."""
        self._try(lambda tracker: tracker.log(metrics))

    def result(
        self, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], figure: Path, artifacts: Sequence[Path]
    ) -> None:
        """Report the outcome."""
        self._try(lambda tracker: tracker.result(result, rows, figure, artifacts))

    def finish(self, failed: bool = False) -> None:
        """End the report."""
        self._try(lambda tracker: tracker.finish(failed))
