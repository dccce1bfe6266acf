"""Event frames: the number of events of each pixel and polarity."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def recording_of(path: Path, frames: int, size: Any) -> Tensor:
    """Frames [frames, C, H, W] of an .npz file that holds frames or events; `size` is [height, width] for events.

    ValueError naming the file if it is damaged or has other contents."""
    try:
        with np.load(path) as file:
            content = {key: file[key] for key in file.files}
    except Exception as error:  # a damaged archive can raise almost anything
        raise ValueError(f"{path}: damaged, or not an .npz file of plain arrays ({error})") from error
    if wrong := [name for name, array in content.items() if array.dtype.kind not in "buif"]:
        raise ValueError(f"{path}: {wrong[0]} is an array of {content[wrong[0]].dtype}; expected numbers")
    if "frames" in content:
        recorded = torch.from_numpy(content["frames"].astype(np.float32))
        if recorded.dim() != 4 or len(recorded) != frames:
            raise ValueError(
                f"{path}: frames {list(recorded.shape)}; expected [{frames}, C, H, W] (data.frames={frames})"
            )
        if not bool(recorded.isfinite().all()):
            raise ValueError(f"{path}: frames contain NaN or infinity; create the file again, or remove it")
        return recorded
    if not {"t", "x", "y", "p"} <= {*content}:
        raise ValueError(f"{path}: holds {', '.join(content)}; expected frames, or t, x, y, p")
    lengths = {name: content[name].shape for name in ("t", "x", "y", "p")}
    if any(len(shape) != 1 or shape != lengths["t"] for shape in lengths.values()):
        raise ValueError(
            f"{path}: {', '.join(f'{name} {[*shape]}' for name, shape in lengths.items())}; expected four arrays of the same length"
        )
    if (np.diff(content["t"].astype(np.float64)) < 0).any():
        raise ValueError(
            f"{path}: t decreases between events; sort the events by time: order = t.argsort(kind='stable')"
        )
    if len(content["t"]) < frames:
        raise ValueError(f"{path}: {len(content['t'])} events, expected at least data.frames={frames}")
    try:
        return integrated(content, frames, *(size or content.get("size", ())))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def integrated(events: Mapping[str, np.ndarray], frames: int, height: int = 0, width: int = 0) -> Tensor:
    """Event counts [frames, 2, H, W]: the events are divided into `frames` parts of equal number (the last holds the rest)."""
    x, y, p = (events[name].astype(np.int64) for name in ("x", "y", "p"))
    if {*np.unique(p)} == {-1, 1}:
        raise ValueError("polarities p are −1 and 1, expected 0 and 1; store (p + 1) // 2")
    height, width = int(height or y.max() + 1), int(width or x.max() + 1)
    if min(x.min(), y.min(), p.min()) < 0 or x.max() >= width or y.max() >= height or p.max() > 1:
        raise ValueError(
            f"x in {x.min()}…{x.max()}, y in {y.min()}…{y.max()}, p in {p.min()}…{p.max()}; expected x in 0…{width - 1}, "
            f"y in 0…{height - 1}, p in 0…1 (data.size=[height,width])"
        )
    part = np.minimum(np.arange(len(x)) // (len(x) // frames), frames - 1)
    places = ((part * 2 + p) * height + y) * width + x
    counts = np.bincount(places, minlength=frames * 2 * height * width)
    return torch.from_numpy(counts.reshape(frames, 2, height, width)).float()


def pooled(frames: Tensor, pool: int) -> Tensor:
    """Sums of `pool`×`pool` pixels, in float32."""
    return frames.float() if pool == 1 else F.avg_pool2d(frames.float(), pool) * pool**2


def compact(frames: Tensor) -> Tensor:
    """`frames` as uint8 if all counts are integers of at most 255, else unchanged."""
    exact = bool((frames == frames.round()).all()) and frames.min() >= 0 and frames.max() <= 255
    return frames.to(torch.uint8) if exact else frames
