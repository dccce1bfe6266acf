"""Outputs of a NIR file in other tools with their own readers, without the metadata that `snnconv.readers` applies."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnconv.readers.graph_model import with_pulse


def _spikingjelly(path: Path, images: int) -> Any:
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    return import_from_nir(path, dt=1.0)


def _snntorch(path: Path, images: int) -> Any:
    import nir
    from snntorch.import_nir import import_from_nir

    return import_from_nir(nir.read(path))


def _sinabs(path: Path, images: int) -> Any:
    import nir
    from sinabs.nir import from_nir

    return from_nir(nir.read(path), batch_size=images)


def _norse(path: Path, images: int) -> Any:
    import nir
    from norse.torch.utils.import_nir import from_nir

    return from_nir(nir.read(path))


SAME = "identical outputs"
TOOLS: dict[str, Callable[[Path, int], Any]] = {
    "spikingjelly": _spikingjelly, "snntorch": _snntorch, "sinabs": _sinabs, "norse": _norse,
}  # fmt: skip


def installed() -> list[str]:
    """Names of the tools that can be imported; empty without nirtorch, which all of them need."""
    return [tool for tool in TOOLS if find_spec(tool) and find_spec("nirtorch")]


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """Suppress the warnings that nirtorch writes to the root logger for every file."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@torch.no_grad()
def outputs_as_read(path: str | Path, tool: str, images: Tensor, timesteps: int) -> Tensor:
    """Outputs [T, N, K] of the model that the reader of `tool` itself returns for a file, with input `images` in every timestep.

    Errors of the tool are raised unchanged.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet_logging():
        warnings.simplefilter("ignore")
        model, state, outputs = TOOLS[tool](Path(path), len(images)), None, []
        pulse = _has_pulse(Path(path))
        for t in range(timesteps):
            x = with_pulse(images, t == 0) if pulse else images
            result = model(x) if state is None else model(x, state)
            output, state = result if isinstance(result, tuple) else (result, None)
            outputs.append(output.clone())
        return torch.stack(outputs)


def _has_pulse(path: Path) -> bool:
    import nir

    return "pulse" in nir.read(path).metadata


def comparison(path: str | Path, images: Tensor, outputs: Tensor) -> dict[str, str]:
    """For each installed tool: number of predictions that differ from those of `outputs` [T, N, K], or its error, as text."""
    facts = {}
    for tool in installed():
        try:
            theirs = outputs_as_read(path, tool, images, len(outputs))
            facts[tool] = _difference(theirs, outputs)
        except Exception as error:  # errors of any class: the file is correct, but the tool cannot read it
            facts[tool] = f"cannot run it ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
        if facts[tool] != SAME:
            facts[tool] += f"; use snnconv.readers.{tool}"
    return facts


def _difference(theirs: Tensor, outputs: Tensor) -> str:
    if theirs.shape != outputs.shape:
        return f"outputs have shape {list(theirs.shape)}, expected {list(outputs.shape)}"
    if torch.equal(theirs, outputs):
        return SAME
    differing = int((theirs.mean(0).argmax(1) != outputs.mean(0).argmax(1)).sum())
    return f"outputs differ, and {differing} of {outputs.shape[1]} predictions"
