"""One run: its folder, device, tracker and log; how it is resumed, and how its errors are told."""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import distributed as dist
from torch import nn

from snnconv.runtime import (
    checkpoint,
    distributed,
    environment,
    files,
    launch,
    mistakes,
    moved_names,
    seed,
    stored_config,
    user_files,
)
from snnconv.runtime.tracking import Patient, Tracker
from snnconv.runtime.trust import trusting

log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot go on, and the user can do something about it."""


# Errors that the user can mend; any other is a mistake of ours and is shown in full.
MENDABLE = (
    ValueError, OSError, TrainingError, torch.OutOfMemoryError, InstantiationException, OmegaConfBaseException
)  # fmt: skip


class Run:
    """The folder of a run and its files (architecture.md, section 3), written by rank 0 alone."""

    def __init__(self, folder: Path, cfg: DictConfig, tracker: Tracker) -> None:
        self.folder, self.cfg, self._tracker, self._started = folder, cfg, tracker, False
        self.device = torch.device(cfg.device)
        self.seconds: dict[str, float] = {"train": 0.0, "convert": 0.0, "evaluate": 0.0, "explain": 0.0}

    @property
    def tracker(self) -> Tracker:
        """The tracker, started at its first use: a run that fails before it begins is reported nowhere."""
        if not self._started:
            self._started = True
            path = self.folder / "last.ckpt"
            state = checkpoint.load_state(path).get("tracker", {}) if path.is_file() else {}
            self._tracker.start(self.folder, OmegaConf.to_container(self.cfg, resolve=True), state)  # type: ignore[arg-type]
        return self._tracker

    def finish(self, failed: bool) -> None:
        """End what was started."""
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
        """The state of the last finished epoch, None if there is none yet; drops metrics of epochs that were not finished."""
        path = self.folder / "last.ckpt"
        state = checkpoint.load_state(path) if path.is_file() else None
        distributed.barrier()  # before anyone writes
        if distributed.is_main():
            kept = [
                row
                for row in files.read_lines(self.folder / "metrics.jsonl")
                if state and row["epoch"] < state["epoch"]
            ]
            if kept or (self.folder / "metrics.jsonl").exists():
                files.write_text(self.folder / "metrics.jsonl", "".join(files.json_line(row) for row in kept))
        return state

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace `last.ckpt`."""
        if distributed.is_main():
            checkpoint.save_state(self.folder / "last.ckpt", {**state, "tracker": self.tracker.resume_state()})

    def save_ann(self, ann: nn.Module, facts: Mapping[str, Any]) -> None:
        """Replace `ann.safetensors` and `ann.json`."""
        if distributed.is_main():
            model: Any = OmegaConf.to_container(self.cfg.model, resolve=True)
            model.pop("weights", None)  # the network is rebuilt from its own, wherever these have gone
            data = {"input_shape": list(self.cfg.data.input_shape), "classes": self.cfg.data.num_classes}
            checkpoint.save_ann(self.folder, ann, model, {**data, "recipe": recipe(self.cfg), **facts})

    def load_ann(self) -> nn.Module:
        """The trained network that `run=` names, on the device of this run; `model.path=` may name its python file anew."""
        given = any(text.lstrip("+").startswith("model.path=") for text in HydraConfig.get().overrides.task)
        path = self.cfg.model.path if given else None
        return checkpoint.load_ann(self.cfg.run, trust=self.cfg.trust, path=path).to(self.device)

    def best(self) -> dict[str, Any] | None:
        """The description of the saved network, None before the first."""
        return checkpoint.describe_ann(self.folder) if (self.folder / "ann.json").is_file() else None

    def trained_with(self) -> list[str] | None:
        """The overrides that this run, or the one that it evaluates, was begun with; None where they cannot be read."""
        try:
            stored: Any = OmegaConf.load(Path(self.cfg.run or self.folder) / ".hydra" / "overrides.yaml")
            return [str(text) for text in OmegaConf.to_container(stored)]  # type: ignore[union-attr]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException):
            return None

    def network(self) -> dict[str, Any] | None:
        """Identity of the network of this run (or of the run it evaluates), for `result.json`; None if it has none."""
        folder = Path(self.cfg.run or self.folder)
        if not (folder / "ann.json").is_file():
            return None
        description = checkpoint.describe_ann(folder)
        model = description["config"]["model"]
        activation = (model.get("model") or model).get("activation") or {}  # compressed networks hold the plain one
        return {
            "weights": checkpoint.weights_hash(folder),
            "recipe": description["recipe"] if "recipe" in description else recipe(self.cfg),
            "activation": str(activation.get("_target_", "")).rpartition(".")[2] or None,
            **{key: description[key] for key in ("tuning",) if key in description},  # how its training ran
        }

    @contextmanager
    def part(self, name: str, cfg: DictConfig) -> Iterator["Run"]:
        """A run of its own in a folder of this one, with the configuration `cfg`: run=… takes it as any other."""
        folder, failed = self.folder / name, True
        if distributed.is_main():
            (folder / ".hydra").mkdir(parents=True)
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
        """Put the saved weights into `ann`."""
        distributed.barrier()
        checkpoint.load_weights(ann, self.folder / "ann.safetensors")

    def log(self, metrics: Mapping[str, Any]) -> None:
        """One epoch's numbers, to `metrics.jsonl` and the tracker."""
        if distributed.is_main():
            tracker = self.tracker  # at its start it may read what is there already
            files.append_line(self.folder / "metrics.jsonl", metrics)
            tracker.log(metrics)


def recipe(cfg: DictConfig) -> str | None:
    """A short hash of the settings that make a network, but its seed and where things are: None if nothing trains it."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    if not plain["fit"]["epochs"]:
        return None
    of_the_place = ("weights", "root", "device", "workers", "seed", "save_every", "tune", "tune_precision")
    later = (
        "distill_layers",
        "keep_zeros",
        "dirac_init",
        "norm_bias_lr",
        "lookahead",
    )  # settings that older runs did not have
    made = {
        part: {key: Path(value).name if isinstance(value, str) else value  # files may lie elsewhere
               for key, value in plain[part].items() if key not in of_the_place and not (key in later and not value)}
        for part in ("model", "data", "fit", "calibration")
    }  # fmt: skip
    if plain["weights"]["bits"] is not None and plain["weights"]["train"]:
        made["weights"] = plain["weights"]
    if plain["compress"].get("stages"):
        made["compress"] = plain["compress"]["stages"]
        if teacher := plain["fit"].get("teacher"):  # one for each seed
            made["fit"]["teacher"] = checkpoint.describe_ann(teacher).get("recipe")
    return hashlib.sha256(json.dumps(moved_names.original(made), sort_keys=True).encode()).hexdigest()[:12]


@contextmanager
def open_run(cfg: DictConfig) -> Iterator[Run]:
    """The run that Hydra has made a folder for, or the one that `resume=` names, with its stored configuration.

    Seeds everything.  Errors that the user can mend, and Ctrl-C, end the process with one message, which says how to go on
    if there is something to go on with, and a non-zero status; in a sweep the other runs follow (`snnconv.results.sweep`).
    """
    hydra = HydraConfig.get()
    folder, fresh = Path(hydra.runtime.output_dir), not cfg.resume
    run, failed = None, True
    try:
        environment.commit()  # of the code that was loaded
        cfg = stored_config.settle(cfg, hydra.overrides.task)
        device = environment.choose_device(cfg.device)
        environment.set_precision(cfg.precision)
        environment.set_threads(cfg.threads)
        with distributed.group(device), files.held(folder) if distributed.is_main() else nullcontext():
            folder = Path(str(distributed.broadcast(str(folder))))
            cfg.device = str(device)
            cfg = stored_config.resolve(cfg)
            seed.seed_everything(cfg.seed)
            log.info("%s", header(hydra.job.name, cfg, folder))
            run = Run(folder, cfg, Patient(instantiate(cfg.track)) if distributed.is_main() else Tracker())
            with trusting(cfg.trust):
                yield run
        failed = False
    except KeyboardInterrupt:
        log.error("Interrupted.%s", _how_to_go_on(folder, run))
        if fresh:
            launch.forget(folder, hydra.job.name)
        raise SystemExit(130) from None
    except MENDABLE as error:
        log.debug("The error in full:", exc_info=True)
        log.error("%s%s", explain(error), "" if isinstance(error, TrainingError) else _how_to_go_on(folder, run))
        if hydra.mode == RunMode.MULTIRUN:
            raise
        if fresh:
            launch.forget(folder, hydra.job.name)
        raise SystemExit(1) from error
    except RuntimeError as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            log.debug("The error in full:", exc_info=True)
            log.error(
                "torch.compile failed (%s); compile=false and simulate.compile=none work without a compiler",
                _first(error),
            )
            raise SystemExit(1) from error
        if not _is_a_loss(error):
            raise
        log.debug("The error in full:", exc_info=True)
        log.error(
            "Another process of this job is lost (%s).%s", str(error).partition(". ")[0], _how_to_go_on(folder, run)
        )
        raise SystemExit(1) from error
    finally:
        if run is not None:
            run.finish(failed)


def header(command: str, cfg: DictConfig, folder: Path) -> str:
    """The two lines with which a run begins: what it does, on which device, in which folder."""
    shape, count = "×".join(map(str, cfg.data.input_shape)), torch.get_num_threads()
    threads = f", {count} thread{'s' * (count != 1)}" if cfg.device == "cpu" else ""
    place = "" if command == "check" else f"; {os.path.relpath(folder)}"
    return (
        f"{command}: {cfg.names.model} on {cfg.names.data} ({shape}, {cfg.data.num_classes} classes), L = {cfg.levels}, "
        f"method {cfg.names.method}\n{cfg.device}{threads}, {cfg.precision}{place}"
    )


def _first(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _is_a_loss(error: RuntimeError) -> bool:
    """Does `error` say that another process does not answer any more?  Gloo has no class of its own for that."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def _how_to_go_on(folder: Path, run: Run | None) -> str:
    """The line that says how to go on; "" if nothing was saved, or if the configuration has to change first."""
    if run is None or not (folder / "last.ckpt").exists():
        return ""
    trust = [*dict.fromkeys([*run.cfg.trust, *user_files.files_of(OmegaConf.to_container(run.cfg))])]
    return f"\nTo go on: {launch.resume_command(Path(os.path.relpath(folder)), trust)}"


def explain(error: BaseException) -> str:
    """The error message, without the wrapping that Hydra puts around a constructor's error, and where in the configuration."""
    key = ""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        text = str(error)
        key = key or text.rpartition("full_key: ")[2] if "full_key: " in text else key
        error = error.__cause__
    if key and (argument := re.search(r"unexpected keyword argument '(\w+)'", str(error))):
        return mistakes.unknown(f"{key}.{argument[1]}", HydraConfig.get().overrides.task)
    return f"{error}" + (f"  (in the configuration: {key})" if key else "")
