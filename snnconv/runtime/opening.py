"""Start of a command's run: configuration, device, header; errors end the run with one message."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from torch import distributed as dist

from snnconv.runtime import (
    distributed,
    environment,
    files,
    found_data,
    launch,
    mistakes,
    seed,
    stored_config,
    user_files,
)
from snnconv.runtime.error_notes import with_notes
from snnconv.runtime.run import Run, TrainingError
from snnconv.runtime.tracking import Patient, Tracker
from snnconv.runtime.trust import trusting

log = logging.getLogger(__name__)

# Errors that the user can correct; any other is an error of this program and is shown in full.
MENDABLE = (
    ValueError, OSError, TrainingError, torch.OutOfMemoryError, InstantiationException, OmegaConfBaseException
)  # fmt: skip


@contextmanager
def open_run(cfg: DictConfig) -> Iterator[Run]:
    """Context with the run for which Hydra created a folder, or the run of `resume=` with its stored configuration.

    Seeds all generators.  Errors that the user can correct, and Ctrl-C, end the process with a non-zero status and one message,
    which says how to continue if that is possible; in a sweep the other runs follow (`snnconv.results.sweep`).
    """
    hydra = HydraConfig.get()
    folder, fresh = Path(hydra.runtime.output_dir), not cfg.resume
    run, failed = None, True
    try:
        environment.commit()  # of the code that was loaded
        cfg = stored_config.settle(cfg, launch.typed())
        device = environment.choose_device(cfg.device)
        environment.set_precision(cfg.precision)
        environment.set_threads(cfg.threads)
        with distributed.group(device), files.held(folder) if distributed.is_main() else nullcontext():
            folder = Path(str(distributed.broadcast(str(folder))))
            cfg.device = str(device)
            found_data.complete(cfg, folder)
            cfg = stored_config.resolve(cfg)
            found_data.read_frames(cfg)
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
            "Another process of this job has ended (%s).%s", str(error).partition(". ")[0], _how_to_go_on(folder, run)
        )
        raise SystemExit(1) from error
    finally:
        if run is not None:
            run.finish(failed)


def header(command: str, cfg: DictConfig, folder: Path) -> str:
    """The first two lines of a run: what it does, its device, its folder."""
    shape, count = "×".join(map(str, cfg.data.input_shape)), torch.get_num_threads()
    threads = f", {count} thread{'s' * (count != 1)}" if cfg.device == "cpu" else ""
    kind = "outputs" if cfg.task.targets == "numbers" else "classes"
    encoder = getattr(get_class(cfg.encoder["_target_"]), "name", "direct")
    coding = "" if encoder == "direct" else f", encoder {encoder}"
    place = "" if command == "check" else f"; {os.path.relpath(folder)}"
    return (
        f"{command}: {cfg.names.model} on {cfg.names.data} ({shape}, {cfg.data.num_classes} {kind}), L = {cfg.levels}, "
        f"method {cfg.names.method}{coding}\n{cfg.device}{threads}, {cfg.precision}{place}"
    )


def _first(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _is_a_loss(error: RuntimeError) -> bool:
    """Whether `error` means that another process does not answer; Gloo has no separate class for this error."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def _how_to_go_on(folder: Path, run: Run | None) -> str:
    """The line with the command that continues the run; "" if nothing was saved, or if the configuration must change first."""
    job = HydraConfig.get().job.name
    saved = folder.glob("*/last.ckpt" if job == "compress" else "last.ckpt")
    if run is None or job not in launch.GO_ON or not any(saved):
        return ""
    trust = [*dict.fromkeys([*run.cfg.trust, *user_files.files_of(OmegaConf.to_container(run.cfg))])]
    return f"\nTo continue: {launch.resume_command(Path(os.path.relpath(folder)), trust, job)}"


def explain(error: BaseException) -> str:
    """The message of an error without Hydra's additions, and its place in the configuration."""
    key = ""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        text = str(error)
        key = key or text.rpartition("full_key: ")[2] if "full_key: " in text else key
        error = error.__cause__
    if isinstance(error, InterpolationKeyError):
        return mistakes.reference(error, launch.typed())
    if key and (argument := re.search(r"unexpected keyword argument '(\w+)'", str(error))):
        return mistakes.unknown(f"{key}.{argument[1]}", launch.typed())
    return with_notes(error) + (f"  (in the configuration: {key})" if key else "")
