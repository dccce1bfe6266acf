"""Image files as batches, decoded by worker processes while the network computes."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from snnconv.data.batches import Batches
from snnconv.runtime.seed import derive

Steps = Sequence[Callable[[Any], Any]]  # functions from a PIL image to a PIL image


def transform(name: str, **options: Any) -> Callable[[Any], Any]:
    """The transform `name` of torchvision.transforms.v2; random for each image.  ValueError if there is none."""
    from torchvision.transforms import v2  # imported here because it takes a second

    kind = getattr(v2, name, None)
    if not (isinstance(kind, type) and issubclass(kind, v2.Transform)):
        raise ValueError(f"name={name}: no transform of torchvision.transforms.v2")
    return kind(**options)


class ImageFiles(Dataset):
    """Image files as uint8 RGB of one shape, one batch per item; runs in a worker process."""

    def __init__(self, paths: Sequence[str], shape: Sequence[int], steps: Steps) -> None:
        from torchvision.transforms import v2

        # one array: of a list of strings each worker would get a copy in time, as reference counts change
        self.paths = np.array([os.fsencode(path) for path in paths], dtype=bytes)
        self.shape, self.transform = tuple(shape), v2.Compose([*steps, v2.PILToTensor()])

    def __getitem__(self, batch: tuple[list[int], tuple[int, ...]]) -> UInt8[Tensor, "N C H W"] | ValueError | OSError:
        """Images [N, C, H, W] of the indices in `batch`; random parameters depend only on the keys and the index.

        An error is returned, not raised, because a DataLoader would add the worker's traceback to its message.
        """
        indices, keys = batch
        with torch.random.fork_rng(devices=[]):
            try:
                images = [self._image(index, derive(*keys, index)) for index in indices]
            except (ValueError, OSError) as error:
                return error
        return torch.stack(images) if images else torch.empty(0, *self.shape, dtype=torch.uint8)

    def _image(self, index: int, seed: int) -> UInt8[Tensor, "C H W"]:
        path = os.fsdecode(self.paths[index])
        from torchvision.datasets.folder import pil_loader

        try:
            picture = pil_loader(path)
        except Exception as error:  # a damaged file can raise errors of many classes
            raise OSError(f"{path}: damaged, or not an image ({type(error).__name__}: {error}); replace it with the original, "
                          "or remove it") from error  # fmt: skip
        torch.default_generator.manual_seed(seed)  # v2 draws only from this generator
        image = self.transform(picture)
        if image.shape != self.shape:
            raise ValueError(f"{path}: has shape {list(image.shape)} after the transforms, data.input_shape is {list(self.shape)}; "
                             "change data.input_shape, or the sizes in data.augment and data.prepare")  # fmt: skip
        return image


class FolderBatches(Batches):
    """`Batches` of a set that does not fit on the device: `workers` processes decode files, each up to `prefetch` batches ahead.

    The augmentation of an image depends only on (`seed`, epoch, the image), not on the number of workers or processes.
    """

    def __init__(
        self,
        images: ImageFiles,
        labels: Int64[Tensor, "M"],
        *arguments: Any,
        workers: int = 0,
        prefetch: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(images, labels, *arguments, **options)
        if workers < 0 or prefetch < 1:
            raise ValueError(
                f"data.workers={workers}, data.prefetch={prefetch}: must be at least 0 (processes) and 1 (batches)"
            )
        self.workers, self.prefetch = workers, prefetch

    def _load(self, batches: Sequence[Int64[Tensor, "_"]]) -> Iterator[UInt8[Tensor, "_ C H W"]]:
        keys = (self.seed, self.epoch)
        loader = DataLoader(
            self.images,
            batch_size=None,  # an index stands for a batch
            sampler=[(indices.tolist(), keys) for indices in batches],
            num_workers=self.workers,
            prefetch_factor=self.prefetch if self.workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # so that the state of torch's default generator does not change
        )
        generator = self._generator()
        for indices, images in zip(batches, loader, strict=True):
            if isinstance(images, ValueError | OSError):
                raise images
            yield self._augmented(images.to(self.device, non_blocking=True), indices, generator)
