"""Your own arrays: inputs and targets from .npz, .npy, .pt or .safetensors files, of any rank."""

import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnconv.data.facts import UNLABELLED, facts_of, finds
from snnconv.data.splits import Pair, Splits, cut_own, divided

log = logging.getLogger(__name__)
Source = str | Sequence[str] | float | None  # a file, [inputs file, targets file], or a share or number of samples
NAMES = {
    "inputs": ("x", "inputs", "images", "data", "features"),
    "targets": ("y", "targets", "labels", "target", "label"),
}
KINDS, LAYOUTS, TARGETS = (
    (".npz", ".npy", ".pt", ".safetensors"),
    ("auto", "first", "last", "none"),
    ("classes", "numbers"),
)


def find(**settings: Any) -> dict[str, Any]:
    """Shape, classes and moments of the training samples."""
    names = ("root", "train", "test", "layout", "targets")
    train, _ = _train_and_test(**{name: settings[name] for name in names})
    return facts_of(*train)


@finds(find)
def arrays(
    root: str,
    train: Source,
    *,
    test: Source = None,
    valid: Source = 0.1,
    layout: str = "auto",
    targets: str = "classes",
    target_mean: Any = None,
    target_std: Any = None,
    **options: Any,
) -> Splits:
    """Arrays of a user's as `Splits`.

    root    folder of the files.
    train   a file that holds inputs and targets, or two files [inputs, targets].
    test    the same, or a share (0.2) or a number of the training samples; null: the test part of the training file
            (arrays named `x_test`, `y_test`), or a fifth of the samples.
    valid   the same; the share or number is taken from the samples that train.
    layout  of the channels of inputs [M, …]: "first", "last", or "none" (an axis is added); "auto": first, and ValueError where
            that looks wrong.
    targets "classes": integers are classes, floats are numbers; "numbers": integers are numbers, too.

    uint8 are pixels, scaled to 0…1; any other type is taken as it is, in float32.
    """
    name = str(train)
    training, testing = _train_and_test(root, train, test, layout, targets)
    held = read(Path(root), valid, "valid", layout, targets) if isinstance(valid, str | Sequence) else None
    return cut_own(name, training, testing, held=held, valid=0 if held else valid, **options)  # type: ignore[arg-type]


def _train_and_test(root: str, train: Source, test: Source, layout: str, targets: str) -> tuple[Pair, Pair]:
    for key, value, allowed in (("layout", layout, LAYOUTS), ("targets", targets, TARGETS)):
        if value not in allowed:
            raise ValueError(f"data.{key}={value!r}: must be {', '.join(allowed[:-1])} or {allowed[-1]}")
    if not isinstance(train, str | Sequence):
        raise ValueError("data.train: name a file (.npz, .npy, .pt, .safetensors), data.train=x.npz, or two, "
                         "data.train=[x.npy,y.npy]")  # fmt: skip
    training = read(Path(root), train, "train", layout, targets)
    if isinstance(test, str | Sequence):
        return training, read(Path(root), test, "test", layout, targets)
    if test is None and isinstance(train, str) and "x_test" in {key.lower() for key in _content(Path(root) / train)}:
        log.info("%s: its arrays x_test and y_test are the test set", train)
        return training, read(Path(root), train, "test", layout, targets)
    return divided(str(train), training, 0.2 if test is None else test)


def read(root: Path, source: str | Sequence[str], part: str, layout: str = "auto", targets: str = "classes") -> Pair:
    """Inputs and targets of one part of the data ("train", "valid", "test"); ValueError naming file, array and row."""
    names = [source] if isinstance(source, str) else list(source)
    if len(names) not in (1, 2):
        raise ValueError(f"data.{part}={names}: one file, or two, [inputs, targets]")
    paths = [root / name for name in names]
    contents = [_content(path) for path in paths]
    x = _array(contents[0], "inputs", part, paths[0], alone=len(paths) == 2)
    y = _array(contents[-1], "targets", part, paths[-1], alone=len(paths) == 2)
    inputs, wanted = as_inputs(x, layout, paths[0]), as_targets(y, targets, paths[-1])
    if len(inputs) != len(wanted):
        raise ValueError(f"{paths[0]}: {len(inputs)} inputs, but {len(wanted)} targets in {paths[-1]}; one for each")
    return inputs, wanted


def as_inputs(x: Tensor, layout: str, path: Any) -> Tensor:
    """Inputs [M, C, …]: uint8, or float32."""
    if x.dim() < 2 and layout != "none":
        raise ValueError(
            f"{path}: inputs {list(x.shape)}; expected [M, C, …], or data.layout=none for one value a sample"
        )
    if layout == "auto":
        shape = list(x.shape)
        if x.dim() >= 4 and shape[-1] in (1, 2, 3, 4) and shape[1] > 4:
            raise ValueError(f"{path}: inputs {shape} look like channels last; say so with data.layout=last (or first)")
        if x.dim() == 3 and x.dtype == torch.uint8:
            raise ValueError(f"{path}: inputs {shape} of uint8: are they grey images (data.layout=none), or is the second axis "
                             "the channels (data.layout=first)?")  # fmt: skip
    x = x.movedim(-1, 1) if layout == "last" else x.unsqueeze(1) if layout == "none" else x
    if x.is_complex():
        raise ValueError(f"{path}: inputs of {x.dtype}; give real numbers, such as the magnitude")
    if x.dtype == torch.uint8:
        return x.contiguous()
    return require_finite(x.float().contiguous(), "input", path)


def as_targets(y: Tensor, targets: str, path: Any) -> Tensor:
    """Targets: classes [M] or maps of classes [M, …] in int64; numbers, or labels 0 and 1, [M, K, …] in float32."""
    y = y.squeeze(1) if y.dim() == 2 and y.shape[1] == 1 else y
    numbers = y.is_floating_point() or targets == "numbers" or y.dim() == 2
    if numbers:
        y = require_finite(y.float(), "target", path)
        return y.unsqueeze(1) if y.dim() in (1, 3) else y
    y = y.long()
    if (wrong := (y < 0).flatten(1 if y.dim() > 1 else 0)).any():
        row = int(wrong.nonzero()[0][0])
        raise ValueError(
            f"{path}: target {int(y[row].min())} in row {row}; classes are 0, 1, 2, … (of maps {UNLABELLED}: no label)"
        )
    return y


def require_finite(values: Tensor, what: str, path: Any) -> Tensor:
    """`values`; ValueError naming the first row with NaN or infinity."""
    wrong = ~values.isfinite().flatten(1).all(1) if values.dim() > 1 else ~values.isfinite()
    if wrong.any():
        rows = wrong.nonzero().flatten()
        raise ValueError(f"{path}: the {what} in row {int(rows[0])} is not finite ({len(rows)} such rows); remove these rows, or "
                         "fill them in")  # fmt: skip
    return values


def _array(content: Mapping[str, Tensor], role: str, part: str, path: Path, alone: bool) -> Tensor:
    """The array of a file that holds the inputs or the targets of a part."""
    lower = {key.lower(): value for key, value in content.items()}
    for name in (f"{name}{ending}" for ending in (f"_{part}", "") for name in NAMES[role]):
        if name in lower:
            return lower[name]
    if alone and len(content) == 1:
        return next(iter(content.values()))
    there = ", ".join(f"{key} {list(value.shape)}" for key, value in content.items()) or "nothing"
    raise ValueError(f"{path}: holds {there}; expected {role} under one of the names {', '.join(NAMES[role])}"
                     f" (or with _{part} behind it); two files are data.{part}=[inputs,targets]")  # fmt: skip


def _content(path: Path) -> dict[str, Tensor]:
    """The arrays of a file by name; nothing is unpickled."""
    if path.suffix not in KINDS:
        raise ValueError(f"{path}: files of type {', '.join(KINDS)} are read")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; data.root is the folder in which data.train, … are looked up")
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
        raise ValueError(f"{path}: damaged, or holds objects that are no arrays ({first}); save plain arrays, for example "
                         "numpy.savez(file, x=inputs, y=targets)") from error  # fmt: skip
    except Exception as error:  # zipfile and safetensors have classes of their own
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
    if array.dtype.kind == "u" and array.dtype != np.uint8:  # torch computes with few of them
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
