"""Where a command puts its run folder, and which configuration a continued run gets.  Importing it teaches Hydra the names."""

import atexit
import itertools
import logging
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from snnconv.runtime import distributed, files, moved_names
from snnconv.runtime.trust import require_trusted

log = logging.getLogger(__name__)

# What may change when a stored run goes on; everything else would change its numbers.
RESUMABLE = ("device", "data.root", "track", "data.workers", "timesteps", "simulate", "explain", "costs", "trust")
HARDWARE = ("weights", "integer", "baseline", "compress", "export")  # groups of what leads to hardware
REEVALUABLE = (*RESUMABLE, *HARDWARE, "precision", "compile", "method", "neuron", "data.calibration")
USED = {  # by which commands; elsewhere a choice would do nothing
    "weights": ("train", "check", "evaluate", "compress", "integerize", "export"),
    "integer": ("integerize", "export"),
    "baseline": ("baseline",),
    "compress": ("compress",),
    "export": ("export",),
}
ANEW = ("method", "neuron", "integer", "baseline", "compress", "export")  # what to do with a run, not what it did
LATER = ("costs", "explain", *HARDWARE)  # which runs of older versions did not store
OF_A_RUN = ("evaluate", "integerize", "compress", "export", "baseline")  # scripts that start from a trained network
KEPT = ("last.ckpt", "ann.safetensors", "ann.json", "metrics.jsonl", "result.json")  # with one of them, it holds a run

_made: list[Path] = []  # the folders that this process made, innermost first


def run_folder(
    job: str, resume: str | None, run: str | None, choices: DictConfig, stamp: str, number: int | None
) -> str:
    """The folder of this run, made so that no other process can have the same; for Hydra's `hydra.run.dir`.

    A continued run keeps its folder; an evaluation lies in the folder of its run.  Ranks other than 0 log elsewhere, and a
    check leaves nothing behind.
    """
    if job in OF_A_RUN and not run:
        sys.exit(f"run=… is missing: which run folder holds the trained network? (python scripts/{job}.py run=runs/…)")
    if job not in (*OF_A_RUN, "check") and run:
        sys.exit("run=… is for scripts/evaluate.py; to go on with an interrupted run use resume=…")
    if job == "check" and resume:
        sys.exit("resume=… is for train.py; to check the trained network of a run use run=…")
    if run and not (Path(run) / "ann.json").is_file():
        sys.exit(f"run={run}: no run folder with a trained network (ann.json and ann.safetensors)")
    if job == "check" or not distributed.is_main():
        scratch = tempfile.mkdtemp(prefix="snnconv-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        return scratch
    if resume:
        if not (Path(resume) / ".hydra" / "overrides.yaml").is_file():  # Hydra writes it last: the others are whole
            sys.exit(
                f"resume={resume}: no run folder with a stored configuration (.hydra/config.yaml); start a new run"
            )
        return str(Path(resume) if number is None else Path(resume).absolute())
    if run:
        what = choices.baseline if job == "baseline" else choices.method
        base = Path(run) / ("compressed" if job == "compress" else f"evaluations/{what}")
    else:
        name = choices.get("experiment") or choices.get("sweep") or f"{choices.model}-{choices.data}"
        base = Path("runs") / str(name)
    stem = stamp if number is None else f"{stamp}_{number}"
    for attempt in itertools.count():
        folder = base / (stem if attempt == 0 else f"{stem}_{attempt}")
        try:
            _make(folder, exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            sys.exit(f"{folder}: cannot be made ({error.strerror}); choose another place with hydra.run.dir=…")
        return str(folder if number is None else folder.absolute())
    raise AssertionError


def _make(folder: Path, exist_ok: bool) -> None:
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=exist_ok)
    _made.extend(new)


def sweep_name() -> str | None:
    """The name of the sweep that this run belongs to, None outside a sweep."""
    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else None


OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True)
OmegaConf.register_new_resolver("sweep_name", sweep_name)
OmegaConf.register_new_resolver("hydra_folder", lambda resume: ".hydra/resumed" if resume else ".hydra")


class Folder(Callback):
    """Hydra callback: a run or a sweep starts only where files can be written and nothing else would be overwritten."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check `hydra.run.dir`."""
        folder = Path(config.hydra.run.dir)
        if not distributed.is_main():
            return
        if config.resume and folder.absolute() != Path(config.resume).absolute():
            sys.exit(f"hydra.run.dir={folder}: a run goes on in its own folder; leave hydra.run.dir out")
        if not config.resume and any((folder / name).exists() for name in KEPT):
            sys.exit(f"{folder}: holds a run; go on with resume={folder}, or choose another hydra.run.dir")
        require_writable(folder, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check `hydra.sweep.dir`."""
        folder = Path(config.hydra.sweep.dir)
        if config.hydra.job.name == "check":
            sys.exit("scripts/check.py looks at one network at a time")
        if any(folder.glob("job-*.json")):
            sys.exit(f"{folder}: holds a sweep; choose another hydra.sweep.dir")
        require_writable(folder, "hydra.sweep.dir")


def require_writable(folder: Path, key: str) -> None:
    """Make `folder` if it is not there; exit with a message unless a small file fits into it."""
    try:
        _make(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(2**16))
            stream.flush()
    except OSError as error:
        forget(folder, "")
        sys.exit(f"{folder}: cannot be written ({error.strerror}); choose another place with {key}=…")


def settle(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration to use: `cfg`, or the stored one of the run that `resume` or `run` names with what may change."""
    for override in overrides:
        group = re.split(r"[=.@]", override.lstrip("+~"))[0]
        if HydraConfig.get().job.name not in USED.get(group, (HydraConfig.get().job.name,)):
            raise ValueError(
                f"{override}: does nothing here; {group}=… is for {', '.join(f'{name}.py' for name in USED[group])}"
            )
    settled = _continued(cfg, overrides) if cfg.resume or cfg.run else cfg
    timesteps = settled.timesteps
    listed = timesteps if isinstance(timesteps, Sequence) and not isinstance(timesteps, str) else [timesteps]
    if not listed or any(isinstance(t, bool) or not isinstance(t, int) or t < 1 for t in listed):
        raise ValueError(f"timesteps={timesteps!r}: a whole number of at least 1, or a list of them, [1,2,4,8]")
    if not OmegaConf.is_list(settled.trust) or not all(isinstance(entry, str) for entry in settled.trust):
        raise ValueError(f"trust={settled.trust!r}: a list of packages and .py files, [package, examples/net.py]")
    if not isinstance(settled.compile, bool):
        raise ValueError(f"compile={settled.compile!r}: true or false")
    return settled


def _continued(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    source = Path(cfg.resume or cfg.run) / ".hydra"
    stored = _stored(source / "config.yaml", [key for key in cfg if key not in LATER])
    names = _stored(source / "hydra.yaml", ["hydra"]).hydra.runtime.choices
    allowed = RESUMABLE if cfg.resume else REEVALUABLE
    if cfg.resume and OmegaConf.select(stored, "compress.stages"):
        raise ValueError(
            f"resume={cfg.resume}: a stage of scripts/compress.py; begin it again, with run=… the stage before it"
        )
    before = OmegaConf.to_container(stored.weights) if "weights" in stored else None
    planned = OmegaConf.select(stored, "fit.epochs") or 0
    with open_dict(stored):
        for key in LATER:
            if key not in stored:
                stored[key] = cfg[key]
        for override in overrides:
            key = override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")
            if key in ("resume", "run") or (key == "sweep" and cfg.run):  # what a sweep chooses comes as overrides, too
                continue
            if not any(key == name or key.startswith(f"{name}.") for name in allowed):
                verb = "goes on as it was" if cfg.resume else "evaluates a trained network as it is"
                raise ValueError(
                    f"{override}: this {verb}, so only these may change: {', '.join(allowed)}; else start a new run"
                )
            OmegaConf.update(stored, key, OmegaConf.select(cfg, key), merge=False)
        if cfg.run:
            _tell_if_unfinished(source.parent, planned)
            for key in ANEW:
                stored[key] = cfg[key]
            _settle_weights(stored.weights, before)
        stored.resume, stored.run, stored.trust = cfg.resume, cfg.run, cfg.trust
        for name in ("model", "data"):
            if OmegaConf.is_interpolation(stored.names, name):  # else the run has given itself a name
                stored.names[name] = names[name]
        if "weights" in stored.model and (cfg.run or (source.parent / "last.ckpt").is_file()):
            stored.model.weights = None  # what the run started from is not needed any more
        stored.names.method = cfg.names.method if cfg.run else names.method
    return stored


def _tell_if_unfinished(run: Path, epochs: int) -> None:
    """Warn if the training of `run` was interrupted: its network is the best so far, and not what others of the recipe are."""
    lines = [line for line in files.read_lines(run / "metrics.jsonl") if isinstance(line, dict)]
    done = max((line["epoch"] + 1 for line in lines if isinstance(line.get("epoch"), int)), default=epochs)
    if done < epochs:
        log.warning("run=%s: its training ended after %d of %d epochs", run, done, epochs)


def _settle_weights(weights: Any, before: Any) -> None:
    """Say of the `weights` of a trained network that its training knew nothing of them, if they are not those of `before`."""
    job = HydraConfig.get().job.name
    trained = before is not None and before["bits"] is not None and before["train"]
    if trained and weights.bits is None:
        raise ValueError(
            f"weights=float: this network was trained with weights of {before['bits']} bits, and has no others"
        )
    if job != "compress" and OmegaConf.to_container(weights) != before:  # compress trains, too
        weights.train = False


def _stored(path: Path, expected: Iterable) -> Any:
    """The content of a stored yaml file; ValueError naming it if it is damaged or lacks one of the `expected` keys."""
    try:
        stored: Any = OmegaConf.load(path)
        missing = [key for key in expected if key not in stored]
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged, no configuration ({error})") from error
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)}; damaged, or written by another version of snnconv")
    return OmegaConf.create(moved_names.current(OmegaConf.to_container(stored)))


def resolve(cfg: DictConfig) -> DictConfig:
    """`cfg` with a value in the place of every interpolation; ValueError if a stored one calls what is not trusted.

    What is checked is what is built: no interpolation is left that could turn into something else later.
    """
    plain = OmegaConf.to_container(cfg, resolve=True)
    if cfg.resume or cfg.run:
        require_trusted(plain, cfg.trust)
    return OmegaConf.create(plain)  # type: ignore[return-value]


def resume_command(folder: Path) -> str:
    """The command line that goes on with the run in `folder`."""
    value = str(folder)
    if not re.fullmatch(r"[\w./@%+:-]+", value):  # Hydra reads the rest as its own grammar
        value = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return shlex.join(["python", sys.argv[0], f"resume={value}"])


def forget(folder: Path, job: str) -> None:
    """Remove the folder of a run that never began, and those made for it, if only its configuration and log lie in it."""
    ours = {folder / f"{job}.log", *(folder / ".hydra").glob("*.yaml")}
    if folder.is_dir() and set(folder.iterdir()) <= {*ours, folder / ".hydra"}:
        for path in ours:
            path.unlink(missing_ok=True)
        for path in (folder / ".hydra", folder, *_made):
            with suppress(OSError):  # not empty, or gone
                path.rmdir()
