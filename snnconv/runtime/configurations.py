"""The configurations of the program: groups, options, keys, and the comments of their yaml files.

They are in `conf/` of a checkout, and in `snnconv/conf/` of an installed package.  Reading them needs neither Hydra nor torch.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


def groups() -> list[str]:
    """The groups that a user chooses from: `model`, `data`, …"""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


def options(group: str) -> list[str]:
    """The options of a group: the names of its yaml files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def summary(group: str, option: str) -> str:
    """The first sentence of the comment at the start of a yaml file; "" if there is none."""
    lines = []
    for line in (CONF / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    return re.split(r"(?<=[\w)]{2}\.)\s|\s{4}", " ".join(lines))[0].strip().rstrip(".")


@functools.cache
def dotted_keys() -> frozenset[str]:
    """All dotted keys of the configuration, over all options: "levels", "fit.lr", "method.rule.percent"."""
    content = _read(CONF / "config.yaml")
    names = set(_dotted({key: value for key, value in content.items() if key not in ("defaults", "hydra")}))
    for group in groups():
        names.add(group)
        for option in options(group) if group not in ("experiment", "sweep") else ():
            names |= {f"{group}.{key}" for key in _dotted(_read(CONF / group / f"{option}.yaml"))}
    return frozenset(names)


def places(key: str) -> list[tuple[str, str]]:
    """(File in conf/, line with default and comment) for each option that sets a dotted key."""
    group, _, inner = key.partition(".")
    files = [("config.yaml", key), *((f"{group}/{option}.yaml", inner) for option in options(group) if inner)]
    return [(name, line) for name, path in files for line in _lines(CONF / name, path.split("."))]


def _lines(path: Path, key: list[str]) -> list[str]:
    """The lines of a yaml file that set `key` (a list of its parts), without indentation."""
    stack: list[tuple[int, str]] = []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"( *)(\w+):", line)
        if match is None:
            continue
        stack = [each for each in stack if each[0] < len(match[1])] + [(len(match[1]), match[2])]
        if [name for _, name in stack] == key:
            lines.append(line.strip())
    return lines


def top_level() -> frozenset[str]:
    """The first parts of all keys."""
    return frozenset(key.partition(".")[0] for key in dotted_keys())


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _dotted(content: Mapping[str, Any]) -> Iterator[str]:
    for key, value in content.items():
        if not key.startswith("_") and key != "defaults":
            yield key
            if isinstance(value, Mapping):
                yield from (f"{key}.{inner}" for inner in _dotted(value))
