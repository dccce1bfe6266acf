"""The 1,797 handwritten digits of 8×8 pixels that scikit-learn brings along: real data without a download."""

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from snnconv.data.splits import Splits, cut


def digits(
    *, test_fraction: float = 0.2, num_classes: int = 10, input_shape: Sequence[int] = (1, 8, 8), **options: Any
) -> Splits:
    """Digits as `Splits`; a fixed, class-balanced fifth is the test set.  Source: UCI optical digits, via scikit-learn.

    The pixel values 0…16 are stored times 15.
    """
    raw = load_digits()
    images = torch.from_numpy(raw.images).mul(15).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(raw.target).long()
    training, testing = train_test_split(
        range(len(labels)), test_size=test_fraction, random_state=0, stratify=raw.target
    )
    return cut(
        "digits",
        (images[training], labels[training]),
        (images[testing], labels[testing]),
        num_classes=num_classes,
        input_shape=input_shape,
        **options,
    )
