"""Results of a command, without times and names that differ between processes."""

import json
from pathlib import Path
from typing import Any

import torch

OF_THE_PROCESS = ("wall_seconds", "seconds", "command", "commit", "prepare_seconds")
LEFT_OUT = (".log", ".html", ".png", ".yaml")  # these contain times and paths


def outcome(folder: Path) -> dict[str, Any]:
    """Content of every file of `folder` by its relative path, except files that contain times and paths."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in LEFT_OUT]
    return {str(path.relative_to(folder)): _content(path) for path in paths}


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return _plain(json.loads(path.read_bytes()))
    if path.suffix == ".jsonl":
        return [_plain(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".ckpt":
        return _plain(torch.load(path, weights_only=True))
    return path.read_bytes()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if key not in OF_THE_PROCESS}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
