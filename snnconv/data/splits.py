"""The four roles of data, and how a set held in memory is cut into them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from snnconv.runtime import distributed
from snnconv.runtime.seed import derive

AT_ONCE = 2**25  # bytes of pixels: some ten thousand images of CIFAR
Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def first_images(batches: Iterable[tuple[Tensor, Any]], count: int) -> list[Tensor]:
    """The first `count` images of `batches`, batch by batch, or all if there are fewer; nothing if there is none."""
    kept: list[Tensor] = []
    for images, _ in batches:
        kept.append(images[: count - sum(map(len, kept))])
        if sum(map(len, kept)) == count:
            break
    return kept if any(map(len, kept)) else []


class Batches:
    """Batches of (images [N, C, H, W] float, labels [N]) from a set that lives on the device as one uint8 tensor.

    With `shuffle`, the order and the augmentation of an epoch depend on (`seed`, epoch) alone, so a resumed run sees what
    an uninterrupted one would have seen, and every batch is full: a few images sit out an epoch.  Otherwise every image is
    visited exactly once.  With several processes each takes every world-size-th image, or all of them if `everywhere`: what
    calibrates has to be the same for all.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "M C H W"] | Dataset,  # files: only where `_load` is overridden
        labels: Int64[Tensor, "M"],
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        shuffle: bool = False,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        everywhere: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least 1 image")
        self.images: Any = images
        self.labels, self.batch_size = labels, batch_size
        scale = torch.tensor(std, device=labels.device)
        self.scale = (1 / (255 * scale)).view(-1, 1, 1)
        self.offset = (-torch.tensor(mean, device=labels.device) / scale).view(-1, 1, 1)
        self.shuffle, self.augment, self.seed, self.epoch = shuffle, augment, seed, 0
        self.everywhere = everywhere

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches this process sees in one pass."""
        return -(-len(self._share()) // self.batch_size)

    @property
    def count(self) -> int:
        """Images of the whole set, over all processes."""
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.labels.device

    def _share(self) -> range:
        rank, world = (0, 1) if self.everywhere else (distributed.rank(), distributed.world_size())
        full = self.batch_size * world
        stop = self.count - self.count % full if self.shuffle and self.count >= full else self.count
        return range(rank, stop, world)

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "N C H W"], Int64[Tensor, "N"]]]:
        """One pass over this process's share."""
        order = torch.arange(self.count, device=self.device)
        if self.shuffle:
            generator = torch.Generator(self.device).manual_seed(derive(self.seed, self.epoch))
            order = torch.randperm(self.count, generator=generator, device=self.device)
        share = self._share()
        batches = order[share.start : share.stop : share.step].split(self.batch_size)
        for indices, images in zip(batches, self._load(batches), strict=True):
            yield images * self.scale + self.offset, self.labels[indices]

    def _load(self, batches: Sequence[Int64[Tensor, "_"]]) -> Iterator[UInt8[Tensor, "_ C H W"]]:
        """The augmented images of each batch of indices."""
        generator = torch.Generator(self.device)
        if self.shuffle:
            generator.manual_seed(derive(self.seed, self.epoch, distributed.rank() + 1))
        together = self._together()
        for start in range(0, len(batches), together):
            part = batches[start : start + together]
            images = self.images[torch.cat(list(part))]
            for transform in self.augment:
                images = transform(images, generator)
            yield from images.split([len(indices) for indices in part])

    def _together(self) -> int:
        """Batches that are augmented at once: several on CUDA, where it takes longer to start small kernels than to run them."""
        size = self.batch_size * self.images.shape[1:].numel()
        return max(1, AT_ONCE // size) if self.images.is_cuda else 1


@dataclass(frozen=True)
class Splits:
    """The four roles of data.  Only `test` is ever reported, and only once."""

    train: Batches  # augmented, shuffled
    valid: Batches  # held out from the training set; selects checkpoints and settings
    calibration: Batches  # training images, no augmentation, fixed order
    test: Batches

    def __post_init__(self) -> None:
        """ValueError, in every process, where one of several would be left without images and the others wait for it."""
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
    kept, held = hold_out(name, len(train[0]), valid, calibration)

    def batches(pair: tuple[Tensor, Tensor], indices: Tensor | slice, size: int, **options: object) -> Batches:
        images, labels = (part[indices].to(device) for part in pair)
        return Batches(images, labels, size, mean, std, **options)  # type: ignore[arg-type]

    return Splits(
        train=batches(train, kept, batch_size, shuffle=True, augment=augment, seed=seed),
        valid=batches(train, held, eval_batch_size),
        calibration=batches(train, kept[:calibration], eval_batch_size, everywhere=True),
        test=batches(test, slice(None), eval_batch_size),
    )
