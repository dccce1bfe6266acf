"""Metadata of an ONNX file: normalization of images, names of classes, and the method."""

import json
from collections.abc import Sequence
from typing import Any

import torch


def describe(model: Any, data: Any, class_names: Sequence[str] | None, **facts: str) -> None:
    """Add metadata to an ONNX model.

    | key | content |
    | --- | --- |
    | image_scale, image_offset | JSON lists by channel: the input is pixels · image_scale + image_offset |
    | image_mean, image_std | the same for pixels in 0…1: the input is (pixels − image_mean) / image_std |
    | class_names | JSON list |

    and `facts`.  Values that are not known are left out.
    """
    values = {name: getattr(data.test, name, None) for name in ("scale", "offset")}
    entries = {
        f"image_{name}": torch.as_tensor(value).flatten().tolist()
        for name, value in values.items()
        if value is not None
    }
    highest = getattr(data.test, "highest", None)
    if len(entries) == 2 and highest:
        scale, offset = (
            torch.as_tensor(values[name]).double().flatten() * by for name, by in (("scale", highest), ("offset", 1))
        )
        entries |= {"image_mean": (-offset / scale).tolist(), "image_std": (1 / scale).tolist()}
    if class_names:
        entries["class_names"] = list(class_names)
    for key, value in {**{key: json.dumps(each) for key, each in entries.items()}, **facts}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
