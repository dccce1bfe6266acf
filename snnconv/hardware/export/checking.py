"""Requirements of exports: settings, images for checking files, and inputs that are the same in every step."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from snnconv.data.batches import first_images
from snnconv.runtime.settings import COUNT, POSITIVE, SWITCH, require
from snnconv.spiking.encoders.direct import Direct
from snnconv.spiking.model import SpikingModel

_RULES = {
    "timesteps": COUNT,
    "clock_mhz": POSITIVE,
    **dict.fromkeys(("normalize", "per_channel", "source", "cells"), SWITCH),
}


def require_settings(**settings: Any) -> None:
    """Raise a ValueError naming the first of these settings of an export whose value is of another kind."""
    require(SimpleNamespace(**settings), {name: _RULES[name] for name in settings}, "export")


def require_opset(opset: int, newest: int) -> None:
    """Raise a ValueError unless the installed onnx, whose `newest` opset is given, can write `opset`."""
    if isinstance(opset, bool) or not isinstance(opset, int) or not 13 <= opset <= newest:
        raise ValueError(
            f"export.opset={opset!r}: must be from 13 (one scale for each channel) to {newest} (the newest in onnx)"
        )


def require_direct_input(snn: SpikingModel) -> None:
    """ValueError if the inputs of `snn` change over time: exported networks receive the image in every step."""
    if not isinstance(snn.encoder, Direct):
        raise ValueError(f"encoder={snn.encoder.name}: exported networks receive the same inputs in every step; use "
                         "encoder=direct")  # fmt: skip


def images_to_compare(batches: Iterable[tuple[Tensor, Any]], count: int) -> Tensor:
    """The first `count` images [N, …] of `batches` (or all, if there are fewer), on the CPU; ValueError without images."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"export.images={count!r}: must be an integer of at least 1 (images for checking the file)")
    if not (parts := first_images(batches, count)):
        raise ValueError("export.images: there are no test images to check the file on; set data.test to 1 or more")
    images = torch.cat(parts).float().cpu()
    if not bool(images.isfinite().all()):
        raise ValueError(f"export.images: {_first_not_finite(images)} contains NaN or infinite pixels; remove it")
    return images


def _first_not_finite(images: Tensor) -> str:
    finite = images.flatten(1).isfinite().all(1)
    return f"test image {int((~finite).nonzero()[0])}"
