"""Images for checking exported files."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from snnconv.data.batches import first_images


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
