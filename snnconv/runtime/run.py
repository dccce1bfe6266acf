"""One run: its folder, device, tracker, state and results."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from snnconv.runtime import (
    checkpoint,
    distributed,
    files,
    launch,
    zoo,
)
from snnconv.runtime.recipe import recipe
from snnconv.runtime.tracking import Patient, Tracker

log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot continue, for a reason that the user can correct."""


class Run:
    """The files of a run, written only by rank 0: state, network, metrics (docs/reference/files.md)."""

    def __init__(self, folder: Path, cfg: DictConfig, tracker: Tracker) -> None:
        self.folder, self.cfg, self._tracker, self._started = folder, cfg, tracker, False
        self.device = torch.device(cfg.device)
        self.seconds = dict.fromkeys(("data", "check", "train", "convert", "evaluate", "explain"), 0.0)

    @property
    def tracker(self) -> Tracker:
        """The tracker, started at its first use, so that a run that fails at its start is not reported."""
        if not self._started:
            self._started = True
            path = self.folder / "last.ckpt"
            state = checkpoint.load_state(path).get("tracker", {}) if path.is_file() else {}
            self._tracker.start(self.folder, OmegaConf.to_container(self.cfg, resolve=True), state)  # type: ignore[arg-type]
        return self._tracker

    def finish(self, failed: bool) -> None:
        """End the tracker if it was started."""
        if self._started:
            self._tracker.finish(failed)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the wall time of the block to `seconds[stage]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def load_state(self) -> dict[str, Any] | None:
        """The state of the last finished epoch, or None; removes metrics of later, unfinished epochs."""
        path = self.folder / "last.ckpt"
        state = checkpoint.load_state(path) if path.is_file() else None
        distributed.barrier()  # before any process writes
        if distributed.is_main():
            rows = [
                row
                for row in files.read_lines(self.folder / "metrics.jsonl")
                if state and row["epoch"] < state["epoch"]
            ]
            if rows or (self.folder / "metrics.jsonl").exists():
                files.write_text(self.folder / "metrics.jsonl", "".join(files.json_line(row) for row in rows))
        return state

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace `last.ckpt`."""
        if distributed.is_main():
            checkpoint.save_state(self.folder / "last.ckpt", {**state, "tracker": self.tracker.resume_state()})

    def save_ann(self, ann: nn.Module, facts: Mapping[str, Any]) -> None:
        """Replace `ann.safetensors` and `ann.json`."""
        if distributed.is_main():
            model: Any = OmegaConf.to_container(self.cfg.model, resolve=True)
            model.get("model", {}).pop("weights", None)
            model.pop("weights", None)  # the network is rebuilt with its saved weights, not with the initial ones
            data = {"input_shape": list(self.cfg.data.input_shape), "classes": self.cfg.data.num_classes}
            checkpoint.save_ann(self.folder, ann, model, {**data, "recipe": recipe(self.cfg), **facts})

    def load_ann(self) -> nn.Module:
        """The trained network of `run=`, on the device of this run; `model.path=` may give a new path of its Python file."""
        given = any(text.lstrip("+").startswith("model.path=") for text in launch.typed())
        path = self.cfg.model.path if given else None
        return checkpoint.load_ann(self.cfg.run, trust=self.cfg.trust, path=path).to(self.device)

    def best(self) -> dict[str, Any] | None:
        """The description of the saved network, or None if none was saved yet."""
        return checkpoint.describe_ann(self.folder) if (self.folder / "ann.json").is_file() else None

    def trained_with(self) -> list[str] | None:
        """The overrides with which this run, or the evaluated run, was started; None if they cannot be read."""
        try:
            stored: Any = OmegaConf.load(zoo.located(self.cfg.run or self.folder) / ".hydra" / "overrides.yaml")
            return [str(text) for text in OmegaConf.to_container(stored)]  # type: ignore[union-attr]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException):
            return None

    def network(self) -> dict[str, Any] | None:
        """The identity of the network of this run (or of the evaluated run), for `result.json`, or None."""
        folder = zoo.located(self.cfg.run or self.folder)
        if not (folder / "ann.json").is_file():
            return None
        description = checkpoint.describe_ann(folder)
        model = description["config"]["model"]
        configured = (model.get("model") or model).get("activation") or {}  # compressed networks hold the plain one
        # Files that do not state the activation are older; "tuning" is how the training ran.
        stated = ("activation", "levels", "tuning") if "activation" in description else ("tuning",)
        return {
            "weights": checkpoint.weights_hash(folder),
            "recipe": description["recipe"] if "recipe" in description else recipe(self.cfg),
            "activation": str(configured.get("_target_", "")).rpartition(".")[2] or None,
            **{key: description[key] for key in stated if key in description},
        }

    @contextmanager
    def part(self, name: str, cfg: DictConfig) -> Iterator["Run"]:
        """A separate run in a subfolder of this run, with the configuration `cfg`; it can be used as run=….

        If this run is resumed, the part is resumed as well.
        """
        folder, failed = self.folder / name, True
        if distributed.is_main():
            (folder / ".hydra").mkdir(parents=True, exist_ok=self.cfg.resume is not None)
            files.write_text(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(cfg))
            for file in ("hydra.yaml", "overrides.yaml"):
                files.write_text(folder / ".hydra" / file, (self.folder / ".hydra" / file).read_text(encoding="utf-8"))
        distributed.barrier()
        part = Run(folder, cfg, Patient(instantiate(cfg.track)) if distributed.is_main() else Tracker())
        try:
            yield part
            failed = False
        finally:
            part.finish(failed)

    def restore_best(self, ann: nn.Module) -> None:
        """Load the saved weights into `ann`."""
        distributed.barrier()
        checkpoint.load_weights(ann, self.folder / "ann.safetensors")

    def log(self, metrics: Mapping[str, Any]) -> None:
        """One epoch's numbers, to `metrics.jsonl` and the tracker."""
        if distributed.is_main():
            tracker = self.tracker  # at its start it may read existing metrics
            files.append_line(self.folder / "metrics.jsonl", metrics)
            tracker.log(metrics)
