"""Reports to Weights & Biases."""

import logging
import os
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snnconv.runtime import files
from snnconv.runtime.tracking import Tables, Tracker

log = logging.getLogger(__name__)


class Wandb(Tracker):
    """Weights & Biases (`track=wandb`): online when logged in, else an offline run and one line on how to sync it.

    A server that does not answer within `start_timeout` seconds makes the run an offline one; what it has not taken
    `finish_timeout` seconds after the end can be synced later.
    """

    def __init__(
        self,
        project: str,
        entity: str | None = None,
        mode: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        start_timeout: float = 30,
        finish_timeout: float = 600,
    ) -> None:
        self.options: dict[str, Any] = {"project": project, "entity": entity, "group": group, "tags": list(tags)}
        self.settings: dict[str, Any] = {
            "silent": True, "init_timeout": start_timeout, "finish_timeout": finish_timeout, "finish_timeout_raises": True
        }  # fmt: skip
        self.mode = mode
        self.run: Any = None

    def start(self, folder: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Open the run; offline if nobody is logged in or the server cannot be reached."""
        import wandb

        warnings.filterwarnings(
            "ignore", "Implicitly cleaning up", ResourceWarning
        )  # wandb's folders, when Python ends
        options = {
            **self.options,
            "dir": str(folder),
            "config": dict(config),
            "name": f"{folder.parent.name}/{folder.name}",
            "settings": wandb.Settings(**self.settings),
        }
        if "wandb_id" in state:
            options |= {"id": state["wandb_id"], "resume": "allow"}
        mode, why = self._mode()
        try:
            self.run = wandb.init(mode=mode, **options)
        except Exception as error:  # wandb reports a lost network in many ways; the run must go on
            if mode == "offline":
                raise
            why = f"no connection ({str(error).splitlines()[0]})"
            self.run = wandb.init(mode="offline", **options)
        self.run.define_metric("epoch", hidden=True)
        self.run.define_metric("fit/*", step_metric="epoch")
        self.run.define_metric("timesteps", hidden=True)
        self.run.define_metric("snn/*", step_metric="timesteps")
        if not self.run.offline:
            log.info("W&B: %s", self.run.url or mode)
            return
        log.info("W&B: tracked offline: %s; %s", why, self._how_to_sync())
        if "wandb_id" in state:  # the part before a kill may be lost, so this one holds all epochs
            for row in files.read_lines(folder / "metrics.jsonl"):
                self.log(row)

    def _mode(self) -> tuple[Any, str]:
        """The mode to ask for, and why: this tracker's, else $WANDB_MODE, else online if the user is logged in."""
        import requests
        import wandb

        user = wandb.setup().settings  # environment and files of the user
        credentials = user.api_key or user.identity_token_file or requests.utils.get_netrc_auth(user.base_url)
        if self.mode is None and user.mode == "online" and not credentials:
            return "offline", "not logged in (wandb login)"
        mode = self.mode or user.mode
        return mode, f"mode {mode}"

    def _how_to_sync(self) -> str:
        return f"to upload it: {shlex.join(['wandb', 'sync', os.path.dirname(os.path.relpath(self.run.dir))])}"

    def resume_state(self) -> dict[str, Any]:
        """The run's W&B identity."""
        return {"wandb_id": self.run.id}

    def log(self, metrics: Mapping[str, Any]) -> None:
        """One epoch: curves under `fit/`, against `epoch`."""
        self.run.log(
            {"epoch": metrics["epoch"], **{f"fit/{key}": value for key, value in metrics.items() if key != "epoch"}}
        )

    def result(
        self, result: Mapping[str, Any], tables: Tables, figure: Path, page: Path, artifacts: Sequence[Path]
    ) -> None:
        """The curve point by point against its own `timesteps` axis; tables, picture and page; the network as an artifact."""
        import wandb

        rows = tables["accuracy_vs_timesteps"]
        for row in rows:
            self.run.log({"timesteps": row["timesteps"], "snn/accuracy": row["accuracy"], "snn/gap": row["gap"]})
        shown: dict[str, Any] = {
            name: wandb.Table(columns=list(lines[0]), data=[list(line.values()) for line in lines])
            for name, lines in tables.items()
        }
        shown |= {"accuracy_vs_timesteps_plot": wandb.Image(str(figure)), "report": wandb.Html(str(page), inject=False)}
        self.run.log(shown)
        self.run.summary.update(
            {f"result/{key}": value for key, value in result.items() if isinstance(value, int | float | str)}
        )
        self.run.summary["result/snn_accuracy"] = rows[-1]["accuracy"]
        artifact = wandb.Artifact(f"ann-{self.run.id}", type="model", metadata={"ann_accuracy": result["ann_accuracy"]})
        for path in artifacts:
            artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def finish(self, failed: bool = False) -> None:
        """Close the run; one line if the server did not take it in time."""
        try:
            self.run.finish(exit_code=int(failed))
        except TimeoutError:
            log.warning("W&B: this run was not taken in time; %s", self._how_to_sync())

    def abandon(self) -> None:
        """Stop the service, so that wandb does not look for it when Python ends."""
        import wandb

        if self.run is not None:
            log.info("W&B: what was tracked lies in the run folder; %s", self._how_to_sync())
        wandb.teardown()
