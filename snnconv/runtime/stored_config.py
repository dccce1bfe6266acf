"""The configuration of a run that is resumed or evaluated again: the stored one, with permitted changes."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from snnconv.runtime import files, launch, mistakes, moved_names, user_files, zoo
from snnconv.runtime.changes import HARDWARE, LADDER, REEVALUABLE, RESUMABLE, change, is_as_stored
from snnconv.runtime.trust import require_trusted

log = logging.getLogger(__name__)


USED = {  # commands that use a group; in other commands a choice has no effect
    "encoder": ("train", "check", "evaluate", "compress", "integerize"),
    "weights": ("train", "check", "evaluate", "compress", "integerize", "export"),
    "integer": ("check", "integerize", "export"),
    "baseline": ("baseline",),
    "compress": ("compress",),
    "export": ("check", "export"),
}


ANEW = (
    "threads",
    "encoder",
    "method",
    "operators",
    "neuron",
    "integer",
    "baseline",
    "compress",
    "export",
)  # settings for the use of a run, which are not part of it


LATER = (
    "encoder",
    "task",
    "metric",
    "costs",
    "threads",
    "explain",
    "operators",
    *HARDWARE,
)  # not stored by runs of older versions


def settle(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration to use: `cfg`, or the stored configuration of the run of `resume` or `run` with permitted changes."""
    mistakes.require_known(overrides, HydraConfig.get().runtime.choices)
    for override in overrides:
        group = re.split(r"[=.@]", override.lstrip("+~"))[0]
        if HydraConfig.get().job.name not in USED.get(group, (HydraConfig.get().job.name,)):
            raise ValueError(f"{override}: has no effect here; {group}=… is for {', '.join(USED[group])}")
    settled = _settled(cfg, overrides)
    timesteps = settled.timesteps
    listed = timesteps if isinstance(timesteps, Sequence) and not isinstance(timesteps, str) else [timesteps]
    if not listed or any(isinstance(t, bool) or not isinstance(t, int) or t < 1 for t in listed):
        raise ValueError(f"timesteps={timesteps!r}: must be an integer of at least 1, or a list of them, [1,2,4,8]")
    if not OmegaConf.is_list(settled.trust) or not all(isinstance(entry, str) for entry in settled.trust):
        raise ValueError(
            f"trust={settled.trust!r}: must be a list of packages and .py files, [package, examples/net.py]"
        )
    begins = HydraConfig.get().job.name in ("train", "check") and not (settled.resume or settled.run)
    if begins and settled.fit.epochs == 0 and not settled.model.get("weights"):
        raise ValueError("fit.epochs=0 does not train the network, but no weights are given; set model.weights=…, or train "
                         "with fit.epochs of at least 1")  # fmt: skip
    if not isinstance(settled.compile, bool):
        raise ValueError(f"compile={settled.compile!r}: must be true or false")
    return settled


def _settled(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`cfg` for a new run, else the stored configuration with the changes of `overrides`; only `overrides` may set `trust`."""
    if not (cfg.resume or cfg.run):
        return cfg
    chosen, job = HydraConfig.get().runtime.choices, HydraConfig.get().job.name
    settled = (_ladder if job == "compress" and cfg.resume else _continued)(cfg, overrides, chosen)
    with open_dict(settled):
        names_file = any(override.lstrip("+").startswith("model.path=") for override in overrides)
        settled.trust = (
            [*cfg.trust, str(cfg.model.path)] if names_file else cfg.trust
        )  # a file that is named on the command line is trusted
    return settled


def _stored(run: Path, expected: Iterable) -> tuple[Any, Mapping[str, Any]]:
    """The initial configuration of the run in the folder `run`, and the options chosen at that time."""
    stored = read_stored(run / ".hydra" / "config.yaml", expected)
    choices = read_stored(run / ".hydra" / "hydra.yaml", ["hydra"]).hydra.runtime.choices
    return OmegaConf.create(user_files.located(OmegaConf.to_container(stored), run)), choices


def _ladder(cfg: DictConfig, overrides: Sequence[str], chosen: Mapping[str, Any]) -> DictConfig:
    """The configuration of a resumed compression, built from the initial configuration of its run."""
    folder = Path(cfg.resume)
    first, choices = _stored(folder, [key for key in cfg if key not in LATER])
    _require_kind(first, folder, "compress")
    typed: Any = OmegaConf.to_container(read_stored(folder / ".hydra" / "overrides.yaml", []))
    first.run = cfg.run or user_files.locate(str(zoo.located(first.run)), folder, Path.is_dir)
    first.names.method = choices["method"]
    settled = _continued(first, [str(text) for text in typed], choices)
    with open_dict(settled):
        change(
            settled,
            cfg,
            overrides,
            LADDER,
            "resumes a run unchanged",
            lambda key: is_as_stored(key, cfg, chosen, first, choices),
        )
        settled.resume = cfg.resume
        user_files.locate_settings(settled, folder, overrides)
    return settled


def _require_kind(stored: DictConfig, folder: Path, job: str) -> None:
    """Raise a ValueError with the correct command if `job` cannot resume the run in `folder`."""
    of_compress = bool(OmegaConf.select(stored, "compress.stages"))
    ladder = folder if stored.run else folder.parent  # or it is a stage
    if of_compress and (job != "compress" or not stored.run):
        what = "a compression" if stored.run else "a stage of a compression"
        raise ValueError(f"resume={folder}: is {what}; resume it with: {launch.resume_command(ladder, job='compress')}")
    if job == "compress" and not of_compress:
        raise ValueError(f"resume={folder}: is a training; resume it with: {launch.resume_command(folder)}")


def _continued(cfg: DictConfig, overrides: Sequence[str], chosen: Mapping[str, Any]) -> DictConfig:
    """The stored configuration of the run of `resume` or `run`, with the changes of `overrides`."""
    source = Path(cfg.resume) if cfg.resume else zoo.located(cfg.run)
    stored, names = _stored(source, [key for key in cfg if key not in LATER])
    if cfg.resume:
        _require_kind(stored, source, "train")
    before = OmegaConf.to_container(stored.weights) if "weights" in stored else None
    planned = OmegaConf.select(stored, "fit.epochs") or 0
    with open_dict(stored):
        for key in LATER:
            if key not in stored:
                stored[key] = cfg[key]
        verb = "resumes a run unchanged" if cfg.resume else "evaluates a trained network unchanged"
        allowed = RESUMABLE if cfg.resume else REEVALUABLE
        change(stored, cfg, overrides, allowed, verb, lambda key: is_as_stored(key, cfg, chosen, stored, names))
        if cfg.run:
            _tell_if_unfinished(source, planned)
            _tell_if_chosen_anew(source, overrides, chosen, names)
            for key in ANEW:
                stored[key] = cfg[key]
            _settle_weights(stored.weights, before)
        stored.resume, stored.run = cfg.resume, cfg.run
        user_files.locate_settings(stored, source, overrides)
        for name in ("model", "data"):
            if OmegaConf.is_interpolation(stored.names, name):  # otherwise the run has its own name
                stored.names[name] = names[name]
        if "weights" in stored.model and (cfg.run or (source / "last.ckpt").is_file()):
            stored.model.weights = None  # the initial weights are no longer needed
        stored.names.method = cfg.names.method if cfg.run else names["method"]
    return stored


def _tell_if_chosen_anew(
    run: Path, overrides: Sequence[str], chosen: Mapping[str, Any], before: Mapping[str, Any]
) -> None:
    """Warn if `run` was itself evaluated with another encoder, neuron or operators, and the command line does not choose them."""
    job = HydraConfig.get().job.name
    for group in ("encoder", "neuron", "operators"):
        used = job in USED.get(group, (job,)) and job not in ("baseline", "export")
        given = any(re.split(r"[=.]", override.lstrip("+"))[0] == group for override in overrides)
        if used and not given and before.get(group, chosen[group]) != chosen[group]:
            log.warning("run=%s: its results were measured with %s=%s; %s uses %s=%s unless it is given",
                        run, group, before[group], job, group, chosen[group])  # fmt: skip


def _tell_if_unfinished(run: Path, epochs: int) -> None:
    """Warn if the training of `run` was interrupted, because its network was trained for fewer epochs than its recipe states."""
    lines = [line for line in files.read_lines(run / "metrics.jsonl") if isinstance(line, dict)]
    done = max((line["epoch"] + 1 for line in lines if isinstance(line.get("epoch"), int)), default=epochs)
    if done < epochs:
        log.warning("run=%s: its training ended after %d of %d epochs", run, done, epochs)


def _settle_weights(weights: Any, before: Any) -> None:
    """Set `weights.train=false` if the requested weight format differs from `before`, the one used in training."""
    job = HydraConfig.get().job.name
    trained = before is not None and before["bits"] is not None and before["train"]
    if trained and weights.bits is None:
        raise ValueError(
            f"weights=float: this network was trained with weights of {before['bits']} bits and has no float weights"
        )
    if job != "compress" and OmegaConf.to_container(weights) != {"layers": None, **before}:  # compress trains, too
        weights.train = False


def read_stored(path: Path, expected: Iterable) -> Any:
    """The content of a stored yaml file; ValueError naming it if it is damaged or lacks one of the `expected` keys."""
    try:
        stored: Any = OmegaConf.load(path)
        missing = [key for key in expected if key not in stored]
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged, not a configuration ({error})") from error
    if missing:
        raise ValueError(f"{path}: has no {', '.join(missing)}; damaged, or written by another version of snnconv")
    return OmegaConf.create(moved_names.current(OmegaConf.to_container(stored)))


def resolve(cfg: DictConfig) -> DictConfig:
    """`cfg` with every interpolation replaced by its value; ValueError if a stored configuration calls code that is not trusted.

    The checked configuration is the one that is built: no interpolation is left that could have another value later.
    """
    plain = OmegaConf.to_container(cfg, resolve=True)
    for key, text in _texts(plain):
        mistakes.require_no_reference(key, text)
    if cfg.resume or cfg.run:
        require_trusted(plain, cfg.trust)
    return OmegaConf.create(plain)  # type: ignore[return-value]


def _texts(config: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts in nested mappings and lists, each with its key."""
    if isinstance(config, str):
        yield key, config
    elif isinstance(config, Mapping):
        for name, value in config.items():
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list):
        for value in config:
            yield from _texts(value, key)
