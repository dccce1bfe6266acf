"""The four roles of data, and the division of a data set in memory into them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnconv.data.batches import Augmentation, Batches
from snnconv.data.facts import UNLABELLED
from snnconv.runtime import distributed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """Data of a run in four roles.  Reported accuracy is that on `test`, evaluated once."""

    train: Batches  # augmented, shuffled
    valid: Batches  # held out from the training set; selects checkpoints and settings
    calibration: Batches  # training images, no augmentation, fixed order
    test: Batches

    def __post_init__(self) -> None:
        """ValueError in every process if one of several would have no images; otherwise the others would wait for it."""
        if 0 < self.train.count < self.train.batch_size:
            log.warning("fit.batch_size=%d: larger than the training set of %d images, so an epoch is one smaller batch",
                        self.train.batch_size, self.train.count)  # fmt: skip
        for role, batches in (("training", self.train), ("validation", self.valid), ("test", self.test)):
            if 0 < batches.count < distributed.world_size():
                raise ValueError(
                    f"{batches.count} {role} images for {distributed.world_size()} processes: each needs at least one"
                )

    def selecting(self, select: str) -> Batches:
        """Images on which `fit.select` chooses the epoch to keep: `test` if `select` is "test", else `valid`.

        ValueError if there are none (data.valid=0).
        """
        require_selection(select, self.valid.count)
        return self.test if select == "test" else self.valid


def require_selection(select: str, valid: int) -> None:
    """ValueError if `fit.select` chooses an epoch on validation images and their number, `valid`, is 0."""
    if select == "best" and valid == 0:
        raise ValueError("data.valid=0 leaves no images for fit.select=best; use fit.select=last, or fit.select=test as "
                         "the papers do")  # fmt: skip


def hold_out(name: str, count: int, valid: int, calibration: int) -> tuple[Tensor, Tensor]:
    """Indices of the training images (the first `calibration` are the calibration images) and of the validation images.

    They are the same for every seed.  ValueError if there are too few images.
    """
    if not 0 <= valid < count or not 0 < calibration <= count - valid:
        raise ValueError(f"{name}: cannot hold out {valid} validation and {calibration} calibration of {count} images")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[valid:], order[:valid]


Pair = tuple[Tensor, Tensor]  # inputs [M, C, …], targets [M, …]


def counted(key: str, value: float, count: int) -> int:
    """A number of samples: `value`, or that share of `count`; ValueError naming the setting `key` unless 0 ≤ number < `count`."""
    number = round(value * count) if isinstance(value, float) and value < 1 else value
    if isinstance(value, bool) or number != int(number) or not 0 <= number < count:
        raise ValueError(
            f"{key}={value}: expected a share of the {count} samples (such as 0.2), or an integer below {count}"
        )
    return int(number)


def division(name: str, targets: Tensor, test: float) -> tuple[list[int], list[int]]:
    """Indices of training and of test samples: `test` is a share or a number, the same for every seed.

    The division is stratified if `targets` are classes and each class has enough samples.
    """
    from sklearn.model_selection import train_test_split

    number, classes = counted("data.test", test, len(targets)), None
    if number < 1:
        raise ValueError(f"{name}: data.test={test} of {len(targets)} samples leaves no test samples")
    if targets.dim() == 1 and not targets.is_floating_point():
        sizes = targets.unique(return_counts=True)[1]
        classes = targets if sizes.min() > 1 and min(number, len(targets) - number) >= len(sizes) else None
    train, tested = train_test_split(range(len(targets)), test_size=number, random_state=0, stratify=classes)
    return train, tested


def divided(name: str, samples: Pair, test: float) -> tuple[Pair, Pair]:
    """Training and test samples, by `division`."""
    train, tested = ((samples[0][part], samples[1][part]) for part in division(name, samples[1], test))
    return train, tested


def cut_own(
    name: str, train: Pair, test: Pair, *, held: Pair | None = None, valid: float, calibration: int, **options: Any
) -> Splits:
    """`cut` for a user's samples: `valid` may be a share, and `calibration` is reduced to the number of training samples."""
    number = 0 if held else counted("data.valid", valid, len(train[0]))
    most = min(calibration, len(train[0]) - number)
    return cut(name, train, test, held=held, valid=number, calibration=most, **options)


def cut(
    name: str,
    train: Pair,
    test: Pair,
    *,
    held: Pair | None = None,
    num_classes: int,
    input_shape: Sequence[int],
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    valid: int,
    calibration: int,
    seed: int,
    device: torch.device | str,
    augment: Sequence[Augmentation] = (),
    eval_batch_size: int = 500,
) -> Splits:
    """`Splits` of (images uint8 or float [M, C, …], targets [M, …]) pairs; `held` are validation samples of their own.

    `valid` images (0: none) are held out of `train`, and the first `calibration` of the others are the calibration images.  The
    choice does not depend on `seed`, so runs with different seeds are comparable.  ValueError if shapes or targets do not fit
    `input_shape` and `num_classes`.
    """
    parts = {"training": train, "test": test, **({"validation": held} if held else {})}
    for part, (images, labels) in parts.items():
        if list(images.shape[1:]) != list(input_shape):
            raise ValueError(
                f"{name}: {part} images are {list(images.shape[1:])}, but data.input_shape is {list(input_shape)}"
            )
        if len(images) != len(labels):
            raise ValueError(f"{name}: {len(images)} {part} images but {len(labels)} labels")
        _require_targets(name, part, labels, num_classes)
    training, validation = hold_out(name, len(train[0]), valid, calibration)

    def batches(pair: tuple[Tensor, Tensor], indices: Tensor | slice, size: int, **options: object) -> Batches:
        images, labels = (part[indices].to(device) for part in pair)
        return Batches(images, labels, size, mean, std, **options)  # type: ignore[arg-type]

    return Splits(
        train=batches(train, training, batch_size, shuffle=True, augment=augment, seed=seed),
        valid=batches(held, slice(None), eval_batch_size) if held else batches(train, validation, eval_batch_size),
        calibration=batches(train, training[:calibration], eval_batch_size, everywhere=True),
        test=batches(test, slice(None), eval_batch_size),
    )


def _require_targets(name: str, part: str, targets: Tensor, num_classes: int) -> None:
    """ValueError unless targets are classes below `num_classes` ([M], or maps [M, …]), or numbers [M, `num_classes`, …]."""
    if targets.is_floating_point():
        if len(targets) == 0 or targets.dim() < 2 or targets.shape[1] != num_classes:
            raise ValueError(f"{name}: {part} targets are {list(targets.shape)}, expected [{len(targets)}, {num_classes}, …] "
                             f"(data.num_classes={num_classes} numbers for each sample)")  # fmt: skip
        return
    wrong = (targets < 0) | (targets >= num_classes)
    if targets.dim() > 1:
        wrong &= targets != UNLABELLED
    if len(targets) == 0 or wrong.any():
        value = f"label {int(targets[wrong][0])} ({int(wrong.sum())} such labels)" if wrong.any() else "no labels"
        raise ValueError(f"{name}: {part} {value}, expected 0…{num_classes - 1} (data.num_classes={num_classes}; if null, it is "
                         "computed from the training samples)")  # fmt: skip
