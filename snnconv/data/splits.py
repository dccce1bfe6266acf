"""The four roles of data, and how a set held in memory is cut into them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snnconv.data.batches import Augmentation, Batches
from snnconv.runtime import distributed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """The four roles of data.  Only `test` is ever reported, and only once."""

    train: Batches  # augmented, shuffled
    valid: Batches  # held out from the training set; selects checkpoints and settings
    calibration: Batches  # training images, no augmentation, fixed order
    test: Batches

    def __post_init__(self) -> None:
        """ValueError, in every process, where one of several would be left without images and the others wait for it."""
        if 0 < self.train.count < self.train.batch_size:
            log.warning("fit.batch_size=%d: more than the %d training images, so an epoch is one smaller batch",
                        self.train.batch_size, self.train.count)  # fmt: skip
        for role, batches in (("training", self.train), ("validation", self.valid), ("test", self.test)):
            if 0 < batches.count < distributed.world_size():
                raise ValueError(
                    f"{batches.count} {role} images for {distributed.world_size()} processes: each needs at least one"
                )

    def selecting(self, select: str) -> Batches:
        """The images on which `fit.select` chooses the epoch to keep: `valid`, or `test` where it says so.

        ValueError if there are none (data.valid=0: every training image trains).
        """
        if select == "best" and self.valid.count == 0:
            raise ValueError("data.valid=0 leaves no images for fit.select=best; use fit.select=last, or fit.select=test as "
                             "the papers do")  # fmt: skip
        return self.test if select == "test" else self.valid


def hold_out(name: str, count: int, valid: int, calibration: int) -> tuple[Tensor, Tensor]:
    """Indices of the images that train (the first `calibration` of them calibrate), and of those that validate.

    The same for every seed.  ValueError if there are not that many.
    """
    if not 0 <= valid < count or not 0 < calibration <= count - valid:
        raise ValueError(f"{name}: cannot hold out {valid} validation and {calibration} calibration of {count} images")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[valid:], order[:valid]


def cut(
    name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
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
    """`Splits` of (images uint8 [M, C, H, W], labels [M]) pairs.

    `valid` images (0: none) are held out of `train` and the first `calibration` of the remaining ones calibrate.  Which ones does
    not depend on `seed`, so runs with different seeds are comparable.  ValueError where the data are not what was announced.
    """
    for part, (images, labels) in (("training", train), ("test", test)):
        if list(images.shape[1:]) != list(input_shape):
            raise ValueError(
                f"{name}: {part} images are {list(images.shape[1:])}, data.input_shape says {list(input_shape)}"
            )
        if len(images) != len(labels):
            raise ValueError(f"{name}: {len(images)} {part} images but {len(labels)} labels")
        if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
            raise ValueError(
                f"{name}: {part} labels do not lie in 0…{num_classes - 1} (data.num_classes={num_classes})"
            )
    training, validation = hold_out(name, len(train[0]), valid, calibration)

    def batches(pair: tuple[Tensor, Tensor], indices: Tensor | slice, size: int, **options: object) -> Batches:
        images, labels = (part[indices].to(device) for part in pair)
        return Batches(images, labels, size, mean, std, **options)  # type: ignore[arg-type]

    return Splits(
        train=batches(train, training, batch_size, shuffle=True, augment=augment, seed=seed),
        valid=batches(train, validation, eval_batch_size),
        calibration=batches(train, training[:calibration], eval_batch_size, everywhere=True),
        test=batches(test, slice(None), eval_batch_size),
    )
