"""Augmentation of whole batches of uint8 images [N, C, H, W], each image with its own random parameters, on any device."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

Images = UInt8[Tensor, "N C H W"]


class RandomCrop:
    """Pad with zeros and crop to the original size at a random position (He et al., 2016, use 4 pixels on CIFAR)."""

    def __init__(self, padding: int) -> None:
        if padding < 1:
            raise ValueError(f"padding={padding}: must be at least one pixel")
        self.padding = padding

    def __call__(self, images: Images, generator: torch.Generator) -> Images:
        """Images shifted by up to `padding` pixels along each axis."""
        count, _, height, width = images.shape
        padded = F.pad(images, [self.padding] * 4)
        top, left = torch.randint(2 * self.padding + 1, (2, count, 1), generator=generator, device=images.device)
        rows = top + torch.arange(height, device=images.device)
        columns = left + torch.arange(width, device=images.device)
        batch = torch.arange(count, device=images.device)
        return padded.movedim(1, -1)[batch[:, None, None], rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


class RandomFlip:
    """Flip each image horizontally with probability 0.5."""

    def __call__(self, images: Images, generator: torch.Generator) -> Images:
        """Images, about half of them flipped."""
        flip = torch.rand(len(images), generator=generator, device=images.device) < 0.5
        return torch.where(flip[:, None, None, None], images.flip(-1), images)


class AlternatingFlip:
    """Flip each image horizontally in every second epoch: a random half in the first, the other half in the next.

    Two consecutive epochs contain both versions of every image; with `RandomFlip`, half of the images have the same version
    twice.  Only for data sets in memory (`data.batches.Batches`).  Source: cifar10-airbench (K. Jordan, 2024).
    """

    by_image = True  # receives the indices of the images and the epoch too

    def __call__(self, images: Images, generator: torch.Generator, indices: Tensor, epoch: int) -> Images:
        """Images, about half of them flipped."""
        first = indices * 2654435761 >> 16  # Knuth's multiplicative hash: one fixed bit for each image
        flip = ((first + epoch) & 1).bool()
        return torch.where(flip[:, None, None, None], images.flip(-1), images)


class Cutout:
    """Blank one square of `size` pixels, centred anywhere, with `fill` per channel (DeVries & Taylor, 2017).

    The papers cut after normalization, so the square has the mean colour: pass that as `fill`, 0…1 per channel.
    """

    def __init__(self, size: int, fill: Sequence[float]) -> None:
        if size < 1:
            raise ValueError(f"size={size}: must be at least one pixel")
        self.size, self.fill = size, list(fill)

    def __call__(self, images: Images, generator: torch.Generator) -> Images:
        """Images with one blank square each; it may extend beyond the border."""
        count, _, height, width = images.shape
        device = images.device
        y = torch.randint(height, (count, 1), generator=generator, device=device) - self.size // 2
        x = torch.randint(width, (count, 1), generator=generator, device=device) - self.size // 2
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        hole = ((rows >= y) & (rows < y + self.size))[:, :, None] & ((columns >= x) & (columns < x + self.size))[
            :, None, :
        ]
        fill = (torch.tensor(self.fill, device=device) * 255).round().to(torch.uint8).view(-1, 1, 1)
        return torch.where(hole[:, None], fill, images)


class EachImage:
    """Any transform of torchvision.transforms.v2 for uint8 images, with new random parameters for each image; runs on the CPU."""

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __call__(self, images: Images, generator: torch.Generator) -> Images:
        """Transformed images.  They depend only on `generator`; the state of torch's default generator does not change."""
        seed = int(torch.randint(2**31, (), generator=generator, device=images.device))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # v2 draws only from this generator
            return torch.stack([self.transform(image) for image in images.cpu()]).to(images.device)


class AutoAugment:
    """AutoAugment's CIFAR-10 policy, one of 25 pairs of operations per image (Cubuk et al., 2019); new pixels are `fill`.

    The operations are torchvision's, which differ from the copy in the QCFS repositories (Preprocess/augment.py) in three
    details: there shears are bicubic, rotations have one direction only, and the second equalization of one pair has probability
    0.8, not 0.6.  All images with the same operation are processed together, on their device.
    """

    def __init__(self, fill: int = 128) -> None:
        from torchvision.transforms import v2  # imported here because it takes a second

        self.policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=fill)

    def __call__(self, images: Images, generator: torch.Generator) -> Images:
        """Images after two random operations each."""
        images = images.clone()
        for operation, chosen in self.draw(len(images), generator).items():
            where = torch.tensor(chosen, device=images.device)
            images[where] = self.apply(images[where], *operation[1:])
        return images

    def draw(self, count: int, generator: torch.Generator) -> dict[tuple[int, str, int | None, int], list[int]]:
        """Indices of images by operation: (first or second, its name, its magnitude out of 10, its sign) → indices.

        The first operations come before the second ones.
        """
        pairs, *draws = torch.rand(5, count, generator=generator, device=generator.device).tolist()
        groups = defaultdict(list)
        for step in range(2):
            for index, (pair, chance, side) in enumerate(zip(pairs, *draws[2 * step : 2 * step + 2], strict=True)):
                name, probability, magnitude = self.policy._policies[int(25 * pair)][step]
                if chance <= probability:
                    sign = -1 if self.policy._AUGMENTATION_SPACE[name][1] and side <= 0.5 else 1
                    groups[step, name, magnitude, sign].append(index)
        return groups

    def apply(self, images: Images, name: str, magnitude: int | None, sign: int) -> Images:
        """`images` after one operation."""
        values = self.policy._AUGMENTATION_SPACE[name][0](10, *images.shape[-2:])
        strength = 0.0 if magnitude is None or values is None else sign * float(values[magnitude])
        return self.policy._apply_image_or_video_transform(
            images, name, strength, interpolation=self.policy.interpolation, fill=self.policy._fill
        )
