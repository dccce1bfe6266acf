"""Entries of a queue file (experiments/queue.yaml)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from snnconv.runtime.settings import NOT_NEGATIVE, WHOLE, Rule, one_of, require

STATES = ("ready", "paused")
MACHINES = ("cpu", "gpu")
_TEXT: Rule = (lambda value: isinstance(value, str), "one string")
_RULES: dict[str, Rule] = {
    "name": (lambda value: isinstance(value, str) and value == Path(value).name and bool(value), "a name for a folder"),
    "study": (lambda value: isinstance(value, str) and bool(value), "a folder beside the queue file"),
    "overrides": _TEXT,
    "command": _TEXT,
    "tiny": _TEXT,
    "data": _TEXT,
    "priority": WHOLE,
    "seconds": NOT_NEGATIVE,
    "state": one_of(*STATES),
    "machine": one_of(*MACHINES),
}


@dataclass(frozen=True)
class Job:
    """A training (`overrides`), which can be interrupted and resumed, or any other command of python (`command`)."""

    name: str
    study: str
    overrides: str = ""  # arguments of train.py; %recipe% stands for an entry of `recipes`
    command: str = ""  # arguments of python; %folder% stands for the job's folder, result.json in it is the result
    priority: int = 100  # the smallest runs first
    state: str = "ready"  # ready | paused: listed, collected if it ends elsewhere, and not run
    machine: str = "cpu"  # cpu | gpu: the machine that it needs
    seconds: float = 0  # estimated time of a command; it is not started if less time is left
    data: str = ""  # folder in $SNNCONV_DATA that it needs
    tiny: str = ""  # arguments added in a rehearsal
    folder: str = ""  # default: the job's name in the folder of the queue

    def __post_init__(self) -> None:
        require(self, _RULES, f"queue.{self.name}")
        if bool(self.overrides) == bool(self.command):
            raise ValueError(f"queue.{self.name}: needs either overrides (of train.py) or command (of python)")

    @property
    def trains(self) -> bool:
        """True for a run of train.py."""
        return bool(self.overrides)


def read_queue(path: Path) -> list[Job]:
    """The jobs of a queue file, the smallest priority first; ValueError that names what is wrong with it."""
    content = _read(path)
    try:
        recipes, jobs = content.get("recipes") or {}, []
        for entry in content["jobs"]:
            texts = {key: _expanded(entry[key], recipes) for key in ("overrides", "command", "tiny") if key in entry}
            jobs.append(Job(**{**entry, **texts}))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: needs `jobs`, each with name, study, and overrides or command ({error})") from error
    if len({job.name for job in jobs}) < len(jobs):
        raise ValueError(f"{path}: two jobs have the same name")
    return sorted(jobs, key=lambda job: job.priority)


def read_settings(path: Path, executor: str) -> dict[str, Any]:
    """The entry of an executor in `executors` of a queue file."""
    try:
        return dict((_read(path).get("executors") or {}).get(executor) or {})
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: executors.{executor} must be settings with names ({error})") from error


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: no valid YAML ({error})") from error


def _expanded(text: str, recipes: dict[str, str]) -> str:
    for name, words in recipes.items():
        text = text.replace(f"%{name}%", words)
    return text
