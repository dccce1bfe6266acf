"""Reports to Weights & Biases."""

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snnconv.runtime import files, program
from snnconv.runtime.tracking import Tables, Tracker

log = logging.getLogger(__name__)
FORBIDDEN = r"/\#?%:"  # in the name of a project, by the rules of W&B
MODES = ("online", "offline", "shared", "disabled")  # of wandb.init
AXES = {"epoch": ("fit", "theta"), "timesteps": ("snn", "firing_rate")}  # horizontal axis: groups of curves


class Wandb(Tracker):
    """Weights & Biases (`track=wandb`): online if logged in, else an offline run and a message with the command that syncs it.

    If the server does not answer within `start_timeout` seconds, the run is tracked offline.  Data that are not uploaded
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
        if not project or len(project) > 128 or set(project) & set(FORBIDDEN):
            raise ValueError(
                f"track.project={project!r}: must be a name of 1 to 128 characters without any of {FORBIDDEN}"
            )
        if mode not in (None, *MODES):
            raise ValueError(f"track.mode={mode!r}: must be null, {', '.join(MODES[:-1])} or {MODES[-1]}")
        for name, seconds in {"start_timeout": start_timeout, "finish_timeout": finish_timeout}.items():
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
                raise ValueError(f"track.{name}={seconds!r}: must be a number of seconds above 0")
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
        except Exception as error:  # wandb reports a lost connection in many ways; the run must continue
            if mode == "offline":
                raise
            why = f"no connection ({str(error).splitlines()[0]})"
            self.run = wandb.init(mode="offline", **options)
        for axis, curves in AXES.items():
            self.run.define_metric(axis, hidden=True)
            for name in curves:
                self.run.define_metric(f"{name}/*", step_metric=axis)
        if not self.run.offline:
            log.info("W&B: %s", self.run.url or mode)
            return
        log.info("W&B: tracked offline: %s; %s", why, self._how_to_sync())
        if "wandb_id" in state:  # earlier epochs may be lost after a kill, so this run contains all epochs
            for row in files.read_lines(folder / "metrics.jsonl"):
                self.log(row)

    def _mode(self) -> tuple[Any, str]:
        """The W&B mode and its reason: the setting of this tracker, else $WANDB_MODE, else online if the user is logged in."""
        import requests
        import wandb

        user = wandb.setup().settings  # environment and files of the user
        credentials = user.api_key or user.identity_token_file or requests.utils.get_netrc_auth(user.base_url)
        if self.mode is None and user.mode == "online" and not credentials:
            return "offline", "not logged in (wandb login)"
        mode = self.mode or user.mode
        return mode, f"mode {mode}"

    def _how_to_sync(self) -> str:
        return f"to upload it: {program.line(['wandb', 'sync', os.path.dirname(os.path.relpath(self.run.dir))])}"

    def resume_state(self) -> dict[str, Any]:
        """The W&B identity of the run."""
        return {"wandb_id": self.run.id}

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Log one epoch: curves under `fit/`, and each θ under `theta/`, against `epoch`."""
        thresholds = metrics.get("thresholds", {})
        fit = {f"fit/{key}": value for key, value in metrics.items() if key not in ("epoch", "thresholds")}
        self.run.log({"epoch": metrics["epoch"], **fit, **{f"theta/{path}": each for path, each in thresholds.items()}})

    def result(
        self, result: Mapping[str, Any], tables: Tables, figure: Path, page: Path, artifacts: Sequence[Path]
    ) -> None:
        """Log accuracy, spikes and firing rates against `timesteps`, tables, figure and page, and the network as an artifact."""
        import wandb

        rows = tables["accuracy_vs_timesteps"]
        rates = {row["timesteps"]: row for row in tables.get("firing_rates", ())}
        for row in rows:
            self.run.log(_at_timestep(row, rates.get(row["timesteps"], {})))
        shown: dict[str, Any] = {
            name: wandb.Table(columns=list(lines[0]), data=[list(line.values()) for line in lines])
            for name, lines in tables.items()
        }
        shown |= _confusion_plots(tables.get("confusion", ()))
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
        """Close the run; a warning if it was not uploaded in time."""
        try:
            self.run.finish(exit_code=int(failed))
        except TimeoutError:
            log.warning("W&B: this run was not uploaded in time; %s", self._how_to_sync())

    def abandon(self) -> None:
        """Stop the service, so that wandb does not wait for it when Python ends."""
        import wandb

        if self.run is not None:
            log.info("W&B: the tracked data are in the run folder; %s", self._how_to_sync())
        wandb.teardown()


def _at_timestep(row: Mapping[str, Any], rates: Mapping[str, Any]) -> dict[str, Any]:
    """One point of the curves against `timesteps`: a row of "accuracy_vs_timesteps", and of "firing_rates"."""
    values = {key: value for key, value in row.items() if key not in ("timesteps", "ann_accuracy")}
    totals = {key: rates[key] for key in ("spikes_per_image", "firing_rate") if key in rates}
    layers = {key: value for key, value in rates.items() if key not in ("timesteps", *totals)}
    return {
        "timesteps": row["timesteps"],
        **{f"snn/{key}": value for key, value in {**values, **totals}.items()},
        **{f"firing_rate/{path}": value for path, value in layers.items()},
    }


def _confusion_plots(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """W&B's confusion matrix of each network in the table "confusion"."""
    import wandb

    columns = {"Actual": "class", "Predicted": "predicted", "nPredictions": "images"}  # W&B's names: ours
    plots = {}
    for network in dict.fromkeys(row["network"] for row in rows):
        data = [[row[key] for key in columns.values()] for row in rows if row["network"] == network]
        plots[f"confusion_{network.lower()}"] = wandb.plot_table(
            "wandb/confusion_matrix/v1",
            wandb.Table(columns=list(columns), data=data),
            fields={name: name for name in columns},
            string_fields={"title": f"Confusion of the {network}"},
        )
    return plots
