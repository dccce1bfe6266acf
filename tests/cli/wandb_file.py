"""Reads what W&B keeps of an offline run: `run-<id>.wandb`, a LevelDB log of protocol buffers."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER, FILE_HEADER = 32768, 7, 7


def records(path: Path) -> Iterator[Record]:
    """The records of a .wandb file, in order."""
    raw = path.read_bytes()
    assert raw[:4] == b":W&B"
    at, parts = FILE_HEADER, b""
    while at + HEADER <= len(raw):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block is padding
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", raw[at : at + HEADER])
        parts += raw[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last of several pieces
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def values(items: Any) -> dict[str, Any]:
    """Keys and JSON values of a history, summary or config record."""
    found: dict[str, Any] = {}
    for item in items:
        *outer, key = item.nested_key or [item.key]
        place = found
        for name in outer:
            place = place.setdefault(name, {})
        place[key] = json.loads(item.value_json)
    return found


class OfflineRun:
    """The facts of one .wandb file."""

    def __init__(self, path: Path) -> None:
        found = list(records(path))
        self.run = next((record.run for record in found if record.HasField("run")), Record().run)
        self.config = values(self.run.config.update)
        self.history = [values(record.history.item) for record in found if record.HasField("history")]
        self.metrics = {
            r.metric.name or r.metric.glob_name: r.metric.step_metric for r in found if r.HasField("metric")
        }
        configs = [values(record.config.update) for record in found if record.HasField("config")]
        self.panels = {
            name: panel for config in configs for name, panel in config.get("_wandb", {}).get("visualize", {}).items()
        }
        self.summary: dict[str, Any] = {}
        for record in found:
            self.summary |= values(record.summary.update) if record.HasField("summary") else {}
        self.artifacts = [record.artifact for record in found if record.HasField("artifact")]
        self.artifacts += [r.request.log_artifact.artifact for r in found if r.request.HasField("log_artifact")]
        self.exit_codes = [record.exit.exit_code for record in found if record.HasField("exit")]


def offline_runs(folder: Path) -> list[OfflineRun]:
    """The offline runs in a run folder, oldest first."""
    return [OfflineRun(path) for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]
