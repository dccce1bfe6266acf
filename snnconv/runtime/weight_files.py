"""Weight files: .safetensors, files of `torch.save`, run folders.  Only tensors and plain values are unpickled."""

import argparse
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from snnconv.runtime import zoo
from snnconv.runtime.torchvision_weights import PREFIX

# Where training scripts keep the weights in a checkpoint, the first that is there.
NESTED = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema",
)
COUNTERS = ("total_ops", "total_params")  # what thop leaves in a network
# What scripts store besides tensors, and what is harmless: numbers of NumPy, and the settings of a command line.
_SCALAR = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [_SCALAR, np.dtype, *{type(np.dtype(kind)) for kind in "?bhilBHILefd"}, argparse.Namespace]


def read_weights(source: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, in a file of `torch.save` (any other ending), or in a run folder.

    A state dict nested under "state_dict" or similar keys is found as well.  FileNotFoundError or ValueError name the file.
    """
    path = zoo.located(source)
    path = path / "ann.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected a .pt, .pth or .safetensors file, a run folder, or {PREFIX}…"
        )
    content = _load(path)
    while isinstance(content, Mapping) and (inner := [content[key] for key in NESTED if _holds(content.get(key))]):
        content = inner[0]
    if isinstance(content, list) and all(isinstance(item, tuple) and len(item) == 2 for item in content):
        content = dict(content)
    if not _holds(content) or not all(isinstance(value, Tensor) for value in content.values()):
        is_mapping = isinstance(content, Mapping)
        kind = f"the keys {', '.join(map(str, content))}" if is_mapping else f"a {type(content).__name__}"
        raise ValueError(f"{path}: contains {kind}, expected a state dict (tensors by name)")
    return {name: value for name, value in content.items() if name.rpartition(".")[2] not in COUNTERS}


def _holds(content: Any) -> bool:
    """Whether this is a non-empty mapping."""
    return isinstance(content, Mapping) and bool(content)


def _load(path: Path) -> Any:
    """The content of a file; ValueError describing it if it contains more than tensors and plain values."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about TorchScript, which is told below
            return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged, or not a safetensors file ({error})") from error
    except Exception as error:  # a damaged or foreign file can raise almost anything, and must not run code
        raise ValueError(f"{path}: {_reason(path, error)}; expected a file of torch.save(network.state_dict(), path) or "
                         "safetensors") from error  # fmt: skip


def _reason(path: Path, error: Exception) -> str:
    """The reason why torch could not read a file."""
    start = path.read_bytes()[:64]
    if not start:
        return "empty"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page instead of the downloaded file"
    if named := re.search(r"GLOBAL (\S+)|global (\S+)", str(error)):
        kind = (named[1] or named[2]).strip("`'\"")
        return f"contains an object of {kind} in addition to tensors, which could run code when it is loaded"
    if "TorchScript" in str(error) or "jit" in str(error):
        return "a TorchScript archive"
    return f"damaged ({type(error).__name__})"
