"""What exporters check their files with."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def first_images(batches: Iterable[tuple[Tensor, Any]], count: int) -> Tensor:
    """The first `count` images [N, …] of `batches`, or all if there are fewer, on the CPU; ValueError if there is none."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"export.images={count!r}: a file is checked on at least 1 image")
    kept: list[Tensor] = []
    for images, _ in batches:
        kept.append(images[: count - sum(map(len, kept))])
        if sum(map(len, kept)) == count:
            break
    if not any(map(len, kept)):
        raise ValueError("export.images: there are no test images to check the file on; set data.test to 1 or more")
    return torch.cat(kept).float().cpu()
