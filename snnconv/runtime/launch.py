"""Where a command puts its run folder, and which configuration a continued run gets.  Importing it teaches Hydra the names."""

import atexit
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from snnconv.runtime import checkpoint, distributed, files

# What may change when a stored run goes on; everything else would change its numbers.
RESUMABLE = ("device", "data.root", "track", "timesteps", "simulate", "trust")
REEVALUABLE = (*RESUMABLE, "precision", "method", "neuron")


def run_folder(
    job: str, resume: str | None, run: str | None, choices: DictConfig, stamp: str, number: int | None
) -> str:
    """The folder of this run, made so that no other process can have the same; for Hydra's `hydra.run.dir`.

    A continued run keeps its folder; an evaluation lies in the folder of its run.  Ranks other than 0 log elsewhere.
    """
    if job == "evaluate" and not run:
        sys.exit(
            "run=… is missing: which run folder holds the trained network? (python scripts/evaluate.py run=runs/…)"
        )
    if job != "evaluate" and run:
        sys.exit("run=… is for scripts/evaluate.py; to go on with an interrupted run use resume=…")
    if not distributed.is_main():
        scratch = mkdtemp(prefix="snnconv-rank-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        return scratch
    if resume:
        if not (Path(resume) / ".hydra" / "hydra.yaml").is_file():  # written after config.yaml: both are whole
            sys.exit(
                f"resume={resume}: no run folder with a stored configuration (.hydra/config.yaml); start a new run"
            )
        return str(Path(resume))
    if run:
        if not (Path(run) / "ann.json").is_file():
            sys.exit(f"run={run}: no run folder with a trained network (ann.json and ann.safetensors)")
        base = Path(run) / "evaluations" / str(choices.method)
    else:
        name = choices.get("experiment") or choices.get("sweep") or f"{choices.model}-{choices.data}"
        base = Path("runs") / str(name)
    stem = stamp if number is None else f"{stamp}_{number}"
    for attempt in range(1000):
        folder = base / (stem if attempt == 0 else f"{stem}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            sys.exit(f"{folder}: cannot be made ({error.strerror}); choose another place with hydra.run.dir=…")
        return str(folder.absolute() if number is not None else folder)
    raise FileExistsError(f"{base / stem}: a thousand runs in one second")


def sweep_name() -> str | None:
    """The name of the sweep that this run belongs to, None outside a sweep."""
    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else None


OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True)
OmegaConf.register_new_resolver("sweep_name", sweep_name)
OmegaConf.register_new_resolver("hydra_folder", lambda resume: ".hydra/resumed" if resume else ".hydra")


def settle(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration to use: `cfg`, or the stored one of the run that `resume` or `run` names with what may change."""
    if isinstance(cfg.timesteps, bool) or not isinstance(cfg.timesteps, int) or cfg.timesteps < 1:
        raise ValueError(f"timesteps={cfg.timesteps!r}: a whole number of at least 1")
    source = cfg.resume or cfg.run
    if not source:
        return cfg
    stored: Any = OmegaConf.load(Path(source) / ".hydra" / "config.yaml")
    allowed = RESUMABLE if cfg.resume else REEVALUABLE
    checkpoint.require_trusted(OmegaConf.to_container(stored), cfg.trust)
    with open_dict(stored):
        for override in overrides:
            key = override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")
            if key in ("resume", "run"):
                continue
            if not any(key == name or key.startswith(f"{name}.") for name in allowed):
                verb = "goes on as it was" if cfg.resume else "evaluates a trained network as it is"
                raise ValueError(
                    f"{override}: this {verb}, so only these may change: {', '.join(allowed)}; else start a new run"
                )
            OmegaConf.update(stored, key, OmegaConf.select(cfg, key), merge=False)
        if cfg.run:
            stored.method, stored.neuron = cfg.method, cfg.neuron
        stored.resume, stored.run, stored.trust = cfg.resume, cfg.run, cfg.trust
        names = OmegaConf.load(Path(source) / ".hydra" / "hydra.yaml").hydra.runtime.choices
        stored.names.model, stored.names.data = names.model, names.data
        stored.names.method = cfg.names.method if cfg.run else names.method
    return stored


def record(folder: Path, outcome: Mapping[str, Any]) -> None:
    """Tell a sweep's summary how this run ended: {"result": …} or {"error": …}."""
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN and distributed.is_main():
        job = {"folder": str(folder), "overrides": list(hydra.overrides.task), **outcome}
        files.write_json(Path(hydra.sweep.dir) / f"job-{hydra.job.num}.json", job)


def forget(folder: Path) -> None:
    """Remove the folder of a run that never began, if nothing but its configuration and log lies in it."""
    ours = [folder / f"{HydraConfig.get().job.name}.log", *(folder / ".hydra").glob("*.yaml")]
    if set(folder.iterdir()) <= {ours[0], folder / ".hydra"}:
        for path in ours:
            path.unlink(missing_ok=True)
        for empty in (folder / ".hydra", folder):
            if empty.is_dir() and not any(empty.iterdir()):
                empty.rmdir()
