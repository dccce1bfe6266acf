"""`export`: writes a network to a file for other programs, from Python, without a configuration or a run folder."""

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from torch import nn

from snnconv.data.loaders import Loader
from snnconv.hardware.export import c, nir, onnx, onnx_unrolled, verilog
from snnconv.spiking.model import SpikingModel


@dataclass(frozen=True)
class Format:
    """A file format: `write(ann, snn, data, folder, **settings) -> facts`, and the suffixes that select it."""

    write: Callable[..., dict[str, Any]]
    suffixes: tuple[str, ...]
    spiking: bool  # whether it holds the spiking network (or the ANN)
    folder: bool = False  # whether `path` is a folder for several files


FORMATS = {
    "nir": Format(nir.export, (".nir",), spiking=True),
    "onnx": Format(onnx.export, (".onnx",), spiking=False),
    "onnx_over_time": Format(onnx_unrolled.export, (), spiking=True),
    "c": Format(c.export, (".c", ".npz"), spiking=True),
    "verilog": Format(verilog.export, (), spiking=True, folder=True),
}


def export(
    network: nn.Module, path: str | Path, *, example: Any, format: str | None = None, **settings: Any
) -> dict[str, Any]:
    """Write `network` to `path` for other programs, and check the file against the network before it is kept.

    | format | suffix | network | file |
    | --- | --- | --- | --- |
    | nir | .nir | `SpikingModel` | NIR graph |
    | onnx | .onnx | trained ANN | quantized ANN with QDQ nodes |
    | onnx_over_time | | `SpikingModel` | the spiking network over T timesteps, in float32 |
    | c | .npz | `SpikingModel` | integer network for NumPy |
    | c | .c | `SpikingModel` | C99 source, and next to it headers, a CMake project and the integer network as .npz |
    | verilog | (a folder) | `SpikingModel` | Verilog-2005 with its memories and a testbench |

    Args:
        network: the spiking network, or for ONNX the ANN.  It is not changed.
        path: the file to write; its folder is created if it does not exist.
        example: inputs [N, …], or an iterable of (inputs, targets), normalized as in training.  The file is run on the first
            inputs, and every spike (ONNX: every activation) is compared with the network.  For `c` the largest absolute value of
            all inputs sets the unit of the integer images.
        format: a name from this table; None: selected by the suffix of `path`.
        settings: settings of conf/export/ and, for `c`, of conf/integer/: `images` and `timesteps` to compare, `normalize` (nir),
            `weight_bits`, `per_channel`, `opset` (onnx), `bits`, `per_channel`, `image_bits`, `membrane_bits` (c).

    Returns a dictionary with the sizes of the files in bytes, by path, and facts about the comparison.

    ValueError for an unknown format or setting, for a network of the wrong kind, and, naming the layer, if the format does not
    support an operation or the file differs from the network.  Nothing is written then.

    >>> import tempfile, torch
    >>> from torch import nn
    >>> from snnconv.conversion.methods import qcfs
    >>> from snnconv.nn.activations.qcfs import QCFS
    >>> from snnconv.spiking.neurons.integrate_fire import IntegrateFire
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 16), QCFS(4, threshold=1.0), nn.Linear(16, 3))
    >>> snn = qcfs.convert(model, [], neuron=IntegrateFire)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     facts = export(snn, f"{folder}/net.npz", example=torch.rand(20, 1, 2, 2), timesteps=4)
    >>> facts["compared"]
    '256 spikes and 48 logits on 4 images, 4 timesteps'
    """
    path = Path(path)
    name = _format_of(path, format)
    chosen = FORMATS[name]
    if isinstance(network, SpikingModel) != chosen.spiking:
        remedies = {
            True: "a spiking network; convert the model first",
            False: "the ANN; pass the model, not the SpikingModel",
        }
        raise ValueError(f"format={name}: needs {remedies[chosen.spiking]}")
    if name == "c":
        settings = {"source": path.suffix == ".c", **settings}
    _require_settings(name, chosen.write, settings)
    batches = list(Loader(example, "cpu"))
    if not any(len(inputs) for inputs, _ in batches):
        raise ValueError("example: is empty; at least one input is needed to check the file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".export_") as place:
        data = SimpleNamespace(test=batches, calibration=batches)
        networks = {"ann": None, "snn": network} if chosen.spiking else {"ann": network, "snn": None}
        facts = chosen.write(**networks, data=data, folder=Path(place), **settings)
        names = list(facts["files"])
        return {
            **facts,
            "files": _put_into(Path(place), names, path) if chosen.folder else _put(Path(place), names, path),
        }


def _format_of(path: Path, name: str | None) -> str:
    """The format called `name`, or the format of the suffix; ValueError listing all formats if there is none."""
    named = {suffix: format for format, each in FORMATS.items() for suffix in each.suffixes}
    if name is None:
        name = named.get(path.suffix.lower())
    if name not in FORMATS:
        formats = ", ".join(
            f"{format} ({', '.join(each.suffixes) or ('a folder' if each.folder else 'by name')})"
            for format, each in FORMATS.items()
        )
        raise ValueError(f"{path}: format={name!r}: must be one of {formats}")
    return name


def _require_settings(name: str, write: Callable, settings: dict[str, Any]) -> None:
    """Raise a ValueError naming the first setting that the format does not have."""
    parameters = inspect.signature(write).parameters.values()
    allowed = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    if unknown := [setting for setting in settings if setting not in allowed]:
        raise ValueError(f"format={name}: no setting {unknown[0]!r}; there are {', '.join(allowed)}")


def _put(folder: Path, names: list[str], path: Path) -> dict[str, int]:
    """Move the files from `folder` to `path`, or to names that start with its stem; returns their sizes."""
    sizes = {}
    for name in names:
        source, target = folder / name, path if len(names) == 1 else path.with_name(_named(name, path.stem))
        if target.suffix in (".c", ".txt"):
            source.write_text(
                re.sub(
                    r"\bsnn(_weights|_test)?\.(c|h)\b", lambda match: _named(match[0], path.stem), source.read_text()
                )
            )
        os.replace(source, target)
        sizes[str(target)] = target.stat().st_size
    return sizes


def _named(name: str, stem: str) -> str:
    """`name` with `stem` in place of snn."""
    return re.sub("^snn", stem, name)


def _put_into(folder: Path, names: list[str], path: Path) -> dict[str, int]:
    """Move the files from `folder` into the folder `path`; returns their sizes."""
    path.mkdir(exist_ok=True)
    for name in names:
        os.replace(folder / name, path / name)
    return {str(path / name): (path / name).stat().st_size for name in names}
