"""Arrays by name from .npz, .npy, .pt and .safetensors files; nothing is unpickled."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NAMES = {
    "inputs": ("x", "inputs", "images", "data", "features"),
    "targets": ("y", "targets", "labels", "target", "label"),
}
KINDS = (".npz", ".npy", ".pt", ".safetensors")


def array_of(content: Mapping[str, Tensor], role: str, part: str, path: Path, alone: bool) -> Tensor:
    """Array with the inputs or the targets (`role`) of one part of the data, from the arrays of a file.

    `alone`: a file with a single array needs no name.  ValueError listing the arrays of the file."""
    lower = {key.lower(): value for key, value in content.items()}
    for name in (f"{name}{ending}" for ending in (f"_{part}", "") for name in NAMES[role]):
        if name in lower:
            return lower[name]
    if alone and len(content) == 1:
        return next(iter(content.values()))
    there = ", ".join(f"{key} {list(value.shape)}" for key, value in content.items()) or "nothing"
    raise ValueError(f"{path}: holds {there}; expected {role} under one of the names {', '.join(NAMES[role])}"
                     f" (or with the suffix _{part}); for two files, set data.{part}=[inputs,targets]")  # fmt: skip


def arrays_in(path: Path) -> dict[str, Tensor]:
    """Arrays of a file by name; an array without a name has the name "".  Nothing is unpickled.

    FileNotFoundError, or ValueError naming a file of another type or a damaged one."""
    if path.suffix not in KINDS:
        raise ValueError(f"{path}: unsupported type of file; supported are {', '.join(KINDS)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; paths in data.train, … are relative to data.root")
    try:
        if path.suffix == ".npz":
            with np.load(path) as file:
                return {key: _tensor(file[key]) for key in file.files}
        if path.suffix == ".npy":
            return {"": _tensor(np.load(path))}
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, ValueError, OSError, RuntimeError, EOFError, KeyError, TypeError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{path}: damaged, or holds objects that are not arrays ({first}); save plain arrays, for example "
                         "numpy.savez(file, x=inputs, y=targets)") from error  # fmt: skip
    except Exception as error:  # zipfile and safetensors raise errors of other classes
        raise ValueError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    stored = dict(zip(("x", "y"), stored, strict=False)) if isinstance(stored, tuple | list) else stored
    stored = {"": stored} if isinstance(stored, Tensor) else stored
    if not isinstance(stored, Mapping) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ValueError(
            f"{path}: holds a {type(stored).__name__}; expected tensors by name, {{'x': inputs, 'y': targets}}"
        )
    return {str(key): value for key, value in stored.items()}


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "buif":
        raise ValueError(f"an array of {array.dtype}")
    if array.dtype.kind == "u" and array.dtype != np.uint8:  # torch implements few operations for other unsigned types
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
