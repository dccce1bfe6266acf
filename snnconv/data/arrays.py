"""Your own arrays: inputs and targets from .npz, .npy, .pt or .safetensors files, of any rank."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snnconv.data.array_files import array_of, arrays_in
from snnconv.data.facts import facts_of, finds
from snnconv.data.samples import as_inputs, as_targets
from snnconv.data.splits import Pair, Splits, cut_own, divided

log = logging.getLogger(__name__)
LAYOUTS, TARGETS = ("auto", "first", "last", "none"), ("classes", "numbers")
Source = str | Sequence[str] | float | None  # a file, [inputs file, targets file], or a share or number of samples


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
    """Arrays of your own as `Splits`.

    root    folder of the files.
    train   a file that holds inputs and targets, or two files [inputs, targets].
    test    the same, or a share (0.2) or a number of the training samples; null: the test part of the training file
            (arrays named `x_test`, `y_test`), or a fifth of the samples.
    valid   the same; the share or number is taken from the samples that train.
    layout  position of the channel dimension of inputs [M, …]: "first", "last", or "none" (a dimension is added); "auto":
            first, but ValueError if the shape looks like another layout.
    targets "classes": integers are classes, floats are numbers; "numbers": integers are numbers too.

    uint8 inputs are pixels and are scaled to 0…1; inputs of any other type are converted to float32 and not scaled.
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
        raise ValueError("data.train: expected one file (.npz, .npy, .pt, .safetensors), data.train=x.npz, or two, "
                         "data.train=[x.npy,y.npy]")  # fmt: skip
    training = read(Path(root), train, "train", layout, targets)
    if isinstance(test, str | Sequence):
        return training, read(Path(root), test, "test", layout, targets)
    if test is None and isinstance(train, str) and "x_test" in {key.lower() for key in arrays_in(Path(root) / train)}:
        log.info("%s: its arrays x_test and y_test are the test set", train)
        return training, read(Path(root), train, "test", layout, targets)
    return divided(str(train), training, 0.2 if test is None else test)


def read(root: Path, source: str | Sequence[str], part: str, layout: str = "auto", targets: str = "classes") -> Pair:
    """Inputs and targets of one part of the data ("train", "valid", "test"); ValueError naming file, array and row."""
    names = [source] if isinstance(source, str) else list(source)
    if len(names) not in (1, 2):
        raise ValueError(f"data.{part}={names}: expected one file, or two: [inputs, targets]")
    paths = [root / name for name in names]
    contents = [arrays_in(path) for path in paths]
    x = array_of(contents[0], "inputs", part, paths[0], alone=len(paths) == 2)
    y = array_of(contents[-1], "targets", part, paths[-1], alone=len(paths) == 2)
    inputs, wanted = as_inputs(x, layout, paths[0]), as_targets(y, targets, paths[-1])
    if not len(inputs):
        raise ValueError(f"{paths[0]}: inputs have the shape {list(inputs.shape)}, so there are no samples")
    if len(inputs) != len(wanted):
        raise ValueError(
            f"{paths[0]}: {len(inputs)} inputs, but {len(wanted)} targets in {paths[-1]}; expected one target for each input"
        )
    return inputs, wanted
