"""Run folders: their location for each command, protection against overwriting, and Hydra's resolvers for them."""

import atexit
import itertools
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from snnconv.runtime import mistakes, program, user_files, zoo

log = logging.getLogger(__name__)

OF_A_RUN = ("evaluate", "integerize", "compress", "export", "baseline")  # scripts that start from a trained network
KEPT = (
    "last.ckpt",
    "ann.safetensors",
    "ann.json",
    "metrics.jsonl",
    "result.json",
    "ladder.json",
)  # a folder with one of these files holds a run
GO_ON = ("train", "compress")  # commands that can be resumed; others start again

_made: list[Path] = []  # the folders that this process created, innermost first


def run_folder(
    job: str, resume: str | None, run: str | None, choices: DictConfig, stamp: str, number: int | None
) -> str:
    """The folder of this run, created so that no other process can use it; for Hydra's `hydra.run.dir`.

    A resumed run keeps its folder; the folder of an evaluation is inside the folder of its run.  Ranks other than 0 use another
    folder, and `check` leaves no folder.
    """
    if resume and job not in GO_ON:
        sys.exit(
            f"resume=… is for {program.example('train', 'resume=runs/…')}; {job} cannot be resumed: use run=… for a trained network"
        )
    if job in OF_A_RUN and not (run or resume):
        sys.exit(f"run=… is missing: name the run folder of the trained network ({program.example(job, 'run=runs/…')})")
    if job not in (*OF_A_RUN, "check") and run:
        sys.exit(
            f"run=… is for {program.example('evaluate', 'run=runs/…')}; to continue an interrupted run use resume=…"
        )
    try:
        trained = zoo.located(run) if run else None
    except ValueError as error:
        sys.exit(f"run={error}")
    if trained and not (trained / "ann.json").is_file():
        sys.exit(f"run={run}: not a run folder with a trained network (ann.json and ann.safetensors)")
    if job == "check" or not _is_main():
        scratch = tempfile.mkdtemp(prefix="snnconv-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        return scratch
    if resume:
        if not (
            Path(resume) / ".hydra" / "overrides.yaml"
        ).is_file():  # Hydra writes it last, so the other files are complete
            sys.exit(
                f"resume={resume}: not a run folder with a stored configuration (.hydra/config.yaml); start a new run"
            )
        return str(Path(resume) if number is None else Path(resume).absolute())
    if run:
        what = choices.baseline if job == "baseline" else choices.method
        base = zoo.writable(run) / ("compressed" if job == "compress" else f"evaluations/{what}")
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
            sys.exit(f"{folder}: cannot be created ({error.strerror}); choose another folder with hydra.run.dir=…")
        return str(folder if number is None else folder.absolute())
    raise AssertionError


def _is_main() -> bool:
    from snnconv.runtime import distributed  # imports torch, which no completion needs

    return distributed.is_main()


def _make(folder: Path, exist_ok: bool) -> None:
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=exist_ok)
    _made.extend(new)


def typed() -> list[str]:
    """The overrides of this command as they were typed, with interpolations (${…})."""
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return overrides


def sweep_name() -> str | None:
    """The name of the sweep that this run belongs to, None outside a sweep."""
    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else None


def register() -> None:
    """Register the resolvers of conf/config.yaml in OmegaConf; may be called several times."""
    OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    OmegaConf.register_new_resolver(
        "hydra_folder", lambda resume: ".hydra/resumed" if resume else ".hydra", replace=True
    )


class Folder(Callback):
    """Hydra callback: checks that the folder of a run or sweep is writable and contains no other run."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check `hydra.run.dir`."""
        try:
            folder = Path(config.hydra.run.dir)
        except InterpolationKeyError as error:  # Hydra would add a warning
            words: Any = OmegaConf.to_container(config.hydra.overrides)
            sys.exit(mistakes.reference(error, [*words["task"], *words["hydra"]]))
        if "${" in str(folder):
            sys.exit(f"hydra.run.dir={folder}: {mistakes.RESERVED}")
        if not _is_main():
            return
        if config.resume and folder.absolute() != Path(config.resume).absolute():
            sys.exit(f"hydra.run.dir={folder}: a run is resumed in its own folder; omit hydra.run.dir")
        if not config.resume and any((folder / name).exists() for name in KEPT):
            files = [*user_files.files_of(OmegaConf.to_container(config))]
            trusted = [program.pasted("trust", files)] if files else []
            go_on = " ".join([program.pasted("resume", str(folder)), *trusted])
            sys.exit(f"{folder}: contains a run; continue it with {go_on}, or choose another hydra.run.dir")
        require_writable(folder, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check `hydra.sweep.dir`."""
        folder = Path(config.hydra.sweep.dir)
        if config.hydra.job.name == "check":
            sys.exit("check supports only one network at a time")
        if any(folder.glob("job-*.json")):
            sys.exit(f"{folder}: contains a sweep; choose another hydra.sweep.dir")
        require_writable(folder, "hydra.sweep.dir")


def require_writable(folder: Path, key: str) -> None:
    """Create `folder` if it does not exist; exit with a message unless a small file can be written to it."""
    try:
        _make(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(2**16))
            stream.flush()
    except OSError as error:
        forget(folder, "")
        sys.exit(f"{folder}: is not writable ({error.strerror}); choose another folder with {key}=…")


def resume_command(folder: Path, trust: Sequence[str] = (), job: str = "train") -> str:
    """The command line that resumes `job` in `folder` and trusts the Python files in `trust`."""
    more = [program.override("trust", trust)] if trust else []
    return program.command_for(job, program.override("resume", str(folder)), *more)


def forget(folder: Path, job: str) -> None:
    """Remove the folder of a run that did not start, and its new parents, if it contains only configuration and log."""
    ours = {folder / f"{job}.log", *(folder / ".hydra").glob("*.yaml")}
    if folder.is_dir() and set(folder.iterdir()) <= {*ours, folder / ".hydra"}:
        for path in ours:
            path.unlink(missing_ok=True)
        for path in (folder / ".hydra", folder, *_made):
            with suppress(OSError):  # not empty, or gone
                path.rmdir()
