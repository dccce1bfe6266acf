"""Mistakes in a user's Python file (model=custom) that its text shows, before the file is run and torch is imported."""

import ast
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

DYNAMIC = {
    "exec",
    "eval",
    "globals",
    "locals",
    "vars",
    "setattr",
    "__getattr__",
}  # may define names that the text does not show


def require_network(arguments: Iterable[str]) -> None:
    """Raise a ValueError if the file that `model.path=` names does not exist or has no correct syntax, or lacks `model.name=`."""
    arguments = list(arguments)
    if not any(text == "model=custom" or text.startswith(("run=", "resume=")) for text in arguments):
        return
    settings = {key: value for key in ("path", "name") if isinstance(value := _value(arguments, f"model.{key}"), str)}
    if "path" not in settings or "${" in "".join(settings.values()):
        return
    path = settings["path"]
    if not Path(path).is_file() or Path(path).suffix != ".py":
        raise ValueError(f"{path}: no such Python file (model.path)")
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError) as error:
        place = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise ValueError(f"{path}{place}: {getattr(error, 'msg', error)} (model.path)") from error
    names, dynamic = _defined(tree)
    if not dynamic and "name" in settings and settings["name"] not in names:
        close = get_close_matches(settings["name"], names, 3, 0.6) or sorted(names)[:8]
        there = f"; there are {', '.join(close)}" if close else ""
        raise ValueError(f"{path}: defines no class or function {settings['name']!r} (model.name){there}")


def _value(arguments: Iterable[str], key: str) -> Any:
    """The last value of `key` in the overrides `arguments`; None if there is none, or several for a sweep."""
    given = [text for text in arguments if text.lstrip("+").startswith(f"{key}=")]
    try:
        return OverridesParser.create().parse_override(given[-1]).value() if given else None
    except HydraException:  # its message comes from Hydra
        return None


def _defined(tree: ast.Module) -> tuple[list[str], bool]:
    """The names that a module binds, classes first, and whether it may bind others."""
    classes, functions, others, dynamic = [], [], [], False
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            classes.append(node.name)
        elif isinstance(node, ast.FunctionDef):
            functions.append(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            others.append(node.id)
        dynamic |= isinstance(node, ast.ImportFrom) and any(each.name == "*" for each in node.names)
        dynamic |= isinstance(node, ast.Name) and node.id in DYNAMIC
    return [*classes, *functions, *others], dynamic or "__getattr__" in functions
