"""Random images of any shape with labels that a network can learn, for tests and timing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snnconv.data.splits import Splits, cut


def synthetic(
    *, num_classes: int, input_shape: Sequence[int], train: int, test: int, noise: float = 0.5, **options: Any
) -> Splits:
    """For each class a random prototype image plus Gaussian noise of `noise` times its deviation, as `Splits`."""
    if train < num_classes or test < num_classes:
        raise ValueError(
            f"synthetic: {train} training and {test} test images for {num_classes} classes; expected at least one for each class"
        )
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(num_classes, *input_shape, generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % num_classes
        images = prototypes[labels] + noise * torch.randn(count, *input_shape, generator=generator)
        return (images * 48 + 128).clamp(0, 255).to(torch.uint8), labels

    return cut("synthetic", draw(train), draw(test), num_classes=num_classes, input_shape=input_shape, **options)
