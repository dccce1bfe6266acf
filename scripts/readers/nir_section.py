"""NIR files in other tools, with their own readers and with `snnconv.readers`."""

from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nir
import torch
from torch import Tensor

import snnconv
from readers.subjects import TIMESTEPS, Subject
from snnconv.hardware.export import nir as exporter
from snnconv.hardware.export.nir_graph import replay
from snnconv.readers.as_read import installed, outputs_as_read

HEAD = ("network", "reader", "as the tool reads it", "accuracy %", "`snnconv.readers`: differing spikes", "differing outputs",
        "accuracy %")  # fmt: skip


def rows(subject: Subject) -> list[list[str]]:
    """A row for each tool, for v(0) in the metadata and by a pulse."""
    lines = []
    for v_initial in ("metadata", "pulse"):
        with TemporaryDirectory() as folder:
            exporter.export(
                None, subject.snn, subject.data, Path(folder), images=4, timesteps=TIMESTEPS, v_initial=v_initial
            )
            lines += _rows(f"{subject.name}, v(0) by {v_initial}", Path(folder) / exporter.FILE, subject)
    return lines


def _rows(name: str, path: Path, subject: Subject) -> list[list[str]]:
    outputs, spikes = replay(nir.read(path), subject.x, TIMESTEPS)
    lines = [[name, "snnconv", *"––––", subject.accuracy(outputs.mean(0))]]
    total = sum(trains.numel() for trains in spikes.values())
    for tool in installed():
        model: Any = getattr(snnconv.readers, tool)(path)
        model.reset()
        wrong, steps = 0, []
        with torch.no_grad():
            for t in range(TIMESTEPS):
                steps.append(model(subject.x))
                wrong += sum(int((model.spikes[node].bool() != trains[t]).sum()) for node, trains in spikes.items())
        theirs = torch.stack(steps)
        lines.append([name, f"{tool} {version(tool)}", *_as_read(path, tool, subject, outputs), f"{wrong} of {total:,}",
                      str(int((theirs != outputs).sum())), subject.accuracy(theirs.mean(0))])  # fmt: skip
    return lines


def _as_read(path: Path, tool: str, subject: Subject, outputs: Tensor) -> tuple[str, str]:
    try:
        theirs = outputs_as_read(path, tool, subject.x, TIMESTEPS)
    except Exception as error:  # an error of any class becomes an entry of the table
        return f"{type(error).__name__}: {' '.join(str(error).split())[:70]}".replace("|", "/"), "–"
    if theirs.shape != outputs.shape:
        return f"outputs of shape {list(theirs.shape)}", "–"
    return f"{100 * (theirs != outputs).float().mean():.1f} % of outputs differ", subject.accuracy(theirs.mean(0))
