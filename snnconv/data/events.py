"""Data of event cameras as frames [T, C, H, W]: N-MNIST, DVS128 Gesture, CIFAR10-DVS, and your own files."""

import contextlib
import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snnconv.data.event_frames import compact, pooled, recording_of
from snnconv.data.facts import finds
from snnconv.data.splits import Pair, Splits, cut_own, divided

SETS = {
    "nmnist": "n_mnist.NMNIST",
    "dvs_gesture": "dvs128_gesture.DVS128Gesture",
    "cifar10_dvs": "cifar10_dvs.CIFAR10DVS",
}
REMEDY = "data.root holds train/ and test/ with a folder of .npz files for each class (frames, or events t, x, y, p)"


def find(**settings: Any) -> dict[str, Any]:
    """Classes, shape, and the deviation of the training frames; the mean is 0, so a pixel without events stays 0."""
    names = ("root", "set", "frames", "pool", "test", "size")
    train, _, classes = read(**{name: settings[name] for name in names})
    values = train[0].float()
    std = values.square().mean().sqrt().item() / (255 if train[0].dtype == torch.uint8 else 1)
    return {"num_classes": len(classes), "class_names": classes, "input_shape": list(train[0].shape[1:]), "mean": [0.0],
            "std": [float(f"{std:.6g}")]}  # fmt: skip


@finds(find)
def events(
    root: str,
    *,
    set: str,
    frames: int,
    pool: int = 1,
    test: float = 0.1,
    size: Any = None,
    class_names: Any = None,
    **options: Any,
) -> Splits:
    """Recordings as `Splits`: inputs [`frames`, 2, H, W] hold the number of events of each pixel and polarity.

    set     "nmnist", "dvs_gesture" or "cifar10_dvs", read by SpikingJelly from the published files in `root`; or "folder": `root`
            has train/ and test/ with a folder for each class, which holds .npz files with "frames" [T, C, H, W], or with events
            "t", "x", "y", "p", which are divided into `frames` parts of equal number.
    pool    events of `pool`×`pool` pixels are summed.
    size    height and width of events in files; by default the array "size" of a file, or the largest coordinates plus one.
    test    share or number of the recordings, for sets without a test part.
    """
    train, tested, classes = read(root, set, frames, pool, test, size)
    if class_names is not None and list(class_names) != classes:
        raise ValueError(
            f"{root}: has the classes {', '.join(classes)}; this run was trained with {', '.join(class_names)}"
        )
    return cut_own(set, train, tested, **options)


def read(root: str, set: str, frames: int, pool: int, test: float, size: Any = None) -> tuple[Pair, Pair, list[str]]:
    """Training and test recordings, and the names of the classes."""
    if type(frames) is not int or frames < 1 or type(pool) is not int or pool < 1:
        raise ValueError(f"data.frames={frames}, data.pool={pool}: must be integers of at least 1")
    if size is not None and not (len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise ValueError(f"data.size={list(size)}: expected [height, width] of the camera in pixels, such as [34,34]")
    if set == "folder":
        classes = _classes(Path(root) / "train")
        parts = [_folder(Path(root) / part, classes, frames, pool, size) for part in ("train", "test")]
        return parts[0], parts[1], classes
    if set not in SETS:
        raise ValueError(f"data.set={set!r}: must be {', '.join(SETS)} or folder")
    module, _, name = SETS[set].partition(".")
    try:
        kind = getattr(importlib.import_module(f"spikingjelly.datasets.{module}"), name)
    except (ImportError, RuntimeError, OSError) as error:
        raise ValueError(f"data.set={set}: SpikingJelly's data sets need torchaudio, which cannot be imported ({error}); install "
                         "the version that matches torch, or use data.set=folder") from error  # fmt: skip
    if not any((Path(root) / part).is_dir() for part in ("events_np", "download", "extract")):
        files = ", ".join(file for file, *_ in kind.resource_url_md5())
        raise FileNotFoundError(f"{root}: no events_np/ and no download/; put {files} into {Path(root) / 'download'} (accept the "
                                "license where it is published), or set data.root to the folder of download/")  # fmt: skip
    settings = {"data_type": "frame", "frames_number": frames, "split_by": "number"}
    with contextlib.redirect_stdout(io.StringIO()):
        if set == "cifar10_dvs":
            whole = kind(root, **settings)
            return *divided(set, _all(whole, pool), test), list(whole.classes)
        train, tested = (kind(root, train=part, **settings) for part in (True, False))
    return _all(train, pool), _all(tested, pool), list(train.classes)


def _all(recordings: Any, pool: int) -> Pair:
    """Every recording of a data set of SpikingJelly."""
    pairs = [(pooled(torch.as_tensor(np.asarray(frames)), pool), int(label)) for frames, label in recordings]
    return compact(torch.stack([frames for frames, _ in pairs])), torch.tensor([label for _, label in pairs])


def _folder(folder: Path, classes: list[str], frames: int, pool: int, size: Any) -> Pair:
    """Every recording below a folder; ValueError naming a file with other contents or another shape."""
    recordings, labels = [], []
    if unknown := [name for name in _classes(folder) if name not in classes]:
        raise ValueError(f"{folder}: holds classes that the training set lacks: {', '.join(unknown)}")
    for label, name in enumerate(classes):
        for path in sorted((folder / name).glob("*.npz")):
            recordings.append(pooled(recording_of(path, frames, size), pool))
            labels.append(label)
            if recordings[-1].shape != recordings[0].shape:
                raise ValueError(f"{path}: frames have shape {list(recordings[-1].shape)}, those of other files "
                                 f"{list(recordings[0].shape)}; all must be equal (for events set data.size=[H,W])")  # fmt: skip
    if not recordings:
        raise FileNotFoundError(f"{folder}: no .npz files in it; {REMEDY}")
    return compact(torch.stack(recordings)), torch.tensor(labels)


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; {REMEDY}")
    return sorted(path.name for path in folder.iterdir() if path.is_dir())
