"""Files and folders of users in a stored configuration: Python files (model=custom), data, teachers."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Settings of a run that name files or folders.
PATHS = (
    "data.root", "data.file", "fit.teacher", "compress.fit.teacher", "method.teacher", "method.start", "method.load"
)  # fmt: skip
USER_CODE = "snnconv.nn.models.custom"  # runs the Python file `path`, so each file must be trusted


def files_of(config: Any) -> Iterator[str]:
    """The paths of the Python files that nested mappings and lists would run."""
    if isinstance(config, Mapping):
        if _runs_a_file(config):
            yield config["path"]
        for value in config.values():
            yield from files_of(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from files_of(value)


def located(config: Any, run: Path) -> Any:
    """A copy of `config`, stored in the folder `run`, with the present paths of these files."""
    return mapped(config, lambda path: _resolved(locate(path, run)))


def locate_settings(stored: DictConfig, run: Path, overrides: Sequence[str] = ()) -> None:
    """Replace relative `PATHS` of `stored`, the configuration of the folder `run`, by their present paths.

    Paths in `overrides` are relative to the working directory.  So is a path from the environment (data.root: $SNNCONV_DATA, else
    data), if it exists there.
    """
    for key in PATHS:
        path = OmegaConf.select(stored, key)
        if any(override.lstrip("+").startswith(f"{key}=") for override in overrides):
            continue
        if not isinstance(path, str) or Path(path).is_absolute():
            continue
        given = OmegaConf.is_interpolation(OmegaConf.select(stored, key.rpartition(".")[0]), key.rpartition(".")[2])
        if not (given and Path(path).exists()):
            OmegaConf.update(stored, key, locate(path, run, Path.exists))


def replaced(config: Any, path: str) -> Any:
    """A copy of `config` in which `path` replaces the paths of these files."""
    return mapped(config, lambda _: path)


def mapped(config: Any, change: Callable[[str], str]) -> Any:
    """A copy of `config` with `change(path)` as the path of each Python file."""
    if isinstance(config, Mapping):
        inner = {key: mapped(value, change) for key, value in config.items()}
        return inner | ({"path": change(config["path"])} if _runs_a_file(config) else {})
    return [mapped(value, change) for value in config] if isinstance(config, list | tuple) else config


def locate(path: str, run: Path, present: Callable[[Path], bool] = Path.is_file) -> str:
    """The absolute path of the file `path` of the run in the folder `run`; `path` itself if the file does not exist.

    Relative paths refer to the folder in which the run was started.  If this folder or the run folder was moved, the file is
    searched at the same place relative to the run folder, and finally relative to the working directory.
    """
    started, folder = _places(run)
    typed = started / path
    candidates = [typed, run.absolute() / os.path.relpath(typed, folder), Path.cwd() / path]
    return next((str(file) for file in candidates if present(file)), path)


def _resolved(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).exists() else path


def _runs_a_file(config: Mapping) -> bool:
    return str(config.get("_target_", "")).startswith(f"{USER_CODE}.") and isinstance(config.get("path"), str)


def _places(run: Path) -> tuple[Path, Path]:
    """The working directory in which a run was started, and its folder at that time; the present ones if they were not stored."""
    try:
        stored: Any = OmegaConf.load(run / ".hydra" / "hydra.yaml")
        return Path(stored.hydra.runtime.cwd), Path(stored.hydra.runtime.output_dir)
    except Exception:  # a damaged file can raise any error, which is reported elsewhere
        return Path.cwd(), run.absolute()
