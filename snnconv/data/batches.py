"""Batches of inputs and targets."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from snnconv.runtime import distributed
from snnconv.runtime.seed import derive

AT_ONCE = 2**25  # bytes of pixels: about ten thousand images of CIFAR


Augmentation = Callable[..., Tensor]  # of (images, generator), and (indices, epoch) if its attribute `by_image` is true


def first_images(batches: Iterable[tuple[Tensor, Any]], count: int) -> list[Tensor]:
    """The first `count` images of `batches`, batch by batch, or all if there are fewer; an empty list if there is none."""
    parts: list[Tensor] = []
    for images, _ in batches:
        parts.append(images[: count - sum(map(len, parts))])
        if sum(map(len, parts)) == count:
            break
    return parts if any(map(len, parts)) else []


class Batches:
    """Batches of (inputs [N, C, …] float, labels [N, …]) from a data set that is one tensor on the device.

    Inputs of any rank have their channels first: [M, C], [M, C, L], [M, C, H, W], [M, C, D, H, W].  uint8 inputs are pixels and
    are scaled to 0…1; float inputs are not scaled.  Then `mean` is subtracted and the result is divided by `std`; each is one
    number, or one number per channel.  ValueError for any other type or length.

    With `shuffle`, the order and the augmentation of an epoch depend only on (`seed`, epoch), so a resumed run uses the same
    batches as an uninterrupted one.  Every batch is then full: an incomplete last batch is dropped.  Without `shuffle`, every
    image is used exactly once.  With several processes each takes every world-size-th image, or all images with `everywhere`,
    since calibration has to use the same images in all processes.
    """

    def __init__(
        self,
        images: Shaped[Tensor, "M C ..."] | Dataset,  # files: only where `_load` is overridden
        labels: Shaped[Tensor, "M ..."],  # classes, or the targets of another task
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
            raise ValueError(f"batch_size={batch_size}: must be at least 1 image")
        self.images: Any = images
        self.labels, self.batch_size = labels, batch_size
        self.highest = 255 if getattr(images, "dtype", torch.uint8) == torch.uint8 else 1  # largest pixel value
        self.scale, self.offset = _normalization(self.images, mean, std, self.highest, labels.device)
        self.shuffle, self.augment, self.seed, self.epoch = shuffle, augment, seed, 0
        self.everywhere = everywhere

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from which the order and the augmentation of the next pass follow."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of batches in one pass of this process."""
        return -(-len(self._share()) // self.batch_size)

    @property
    def count(self) -> int:
        """Number of images of the whole set, over all processes."""
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self.labels.device

    def _share(self) -> range:
        rank, world = (0, 1) if self.everywhere else (distributed.rank(), distributed.world_size())
        full = self.batch_size * world
        stop = self.count - self.count % full if self.shuffle and self.count >= full else self.count
        return range(rank, stop, world)

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "N C ..."], Shaped[Tensor, "N ..."]]]:
        """One pass over this process's share."""
        order = torch.arange(self.count, device=self.device)
        if self.shuffle:
            generator = torch.Generator(self.device).manual_seed(derive(self.seed, self.epoch))
            order = torch.randperm(self.count, generator=generator, device=self.device)
        share = self._share()
        batches = order[share.start : share.stop : share.step].split(self.batch_size)
        for indices, images in zip(batches, self._load(batches), strict=True):
            yield images * self.scale + self.offset, self.labels[indices]

    def _load(self, batches: Sequence[Int64[Tensor, "_"]]) -> Iterator[Shaped[Tensor, "_ C ..."]]:
        """The augmented images of each batch of indices."""
        generator = self._generator()
        together = self._together()
        for start in range(0, len(batches), together):
            part = batches[start : start + together]
            indices = torch.cat(list(part))
            images = self._augmented(self.images[indices], indices, generator)
            yield from images.split([len(indices) for indices in part])

    def _generator(self) -> torch.Generator:
        """Random generator for the augmentation of this epoch in this process."""
        generator = torch.Generator(self.device)
        if self.shuffle:
            generator.manual_seed(derive(self.seed, self.epoch, distributed.rank() + 1))
        return generator

    def _augmented(self, images: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
        """`images`, which have the indices `indices` in the set, after the augmentation."""
        for transform in self.augment:
            more = (indices, self.epoch) if getattr(transform, "by_image", False) else ()
            images = transform(images, generator, *more)
        return images

    def _together(self) -> int:
        """Number of batches to augment together: several on CUDA, where launching small kernels takes longer than running them."""
        size = self.batch_size * self.images[0].nbytes
        return max(1, AT_ONCE // size) if self.images.is_cuda else 1


def _normalization(
    images: Any, mean: Sequence[float], std: Sequence[float], highest: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`scale` and `offset` [C, 1, …] such that images · scale + offset = (images / highest − mean) / std for each channel."""
    dtype = getattr(images, "dtype", torch.uint8)  # image files are decoded to uint8
    if dtype != torch.uint8 and not dtype.is_floating_point:
        raise ValueError(
            f"images of {dtype}: expected uint8 (pixels 0…255, which are scaled to 0…1) or floats (used as they are)"
        )
    shape = tuple(images.shape)[1:] if isinstance(images, Tensor) else tuple(images.shape)
    for name, values in {"data.mean": mean, "data.std": std}.items():
        if len(values) not in (1, shape[0]):
            raise ValueError(
                f"{name} has {len(values)} values; expected 1, or {shape[0]}: one for each channel of images {list(shape)}"
            )
    if not all(value > 0 for value in std):
        raise ValueError(f"data.std={list(std)}: must be positive")
    deviation = torch.tensor(std, device=device)
    ones = [1] * (len(shape) - 1)
    return (1 / (highest * deviation)).view(-1, *ones), (-torch.tensor(mean, device=device) / deviation).view(-1, *ones)


def in_batches(
    batches: Iterable[tuple[Tensor, Tensor]], size: int, count: int | None = None
) -> list[tuple[Tensor, Tensor]]:
    """The same images in batches of at most `size`, for moving averages with one update per batch; all batches, or `count`.

    If there are fewer than `count` batches, they are repeated.
    """
    for name, value in {"batch_size": size, "iterations": count}.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{name}={value}: must be an integer of at least 1")
    parts = [pair for images, labels in batches for pair in zip(images.split(size), labels.split(size), strict=True)]
    return parts if count is None else list(islice(cycle(parts), count))


def calibration_images(batches: Iterable[tuple[Tensor, Any]], count: int) -> Tensor:
    """The first `count` images of `batches`, or all if there are fewer; ValueError if there is none."""
    if type(count) is not int or count < 1:
        raise ValueError(f"method.images={count}: must be an integer of at least 1 (calibration images)")
    if not (parts := first_images(batches, count)):
        raise ValueError(
            "this method needs calibration images, but there are none; set data.calibration to 100 or more"
        )
    return torch.cat(parts)
