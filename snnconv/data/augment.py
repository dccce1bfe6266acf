"""Augmentation of whole batches of uint8 images [N, C, H, W], each image drawn on its own, on any device."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

Images = UInt8[Tensor, "N C H W"]


class RandomCrop:
    """Pad with black and cut the original size out again at a random place (He et al., 2016, use 4 pixels on CIFAR)."""

    def __init__(self, padding: int) -> None:
        if padding < 1:
            raise ValueError(f"padding={padding}: at least one pixel")
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
    """Mirror left and right with probability one half."""

    def __call__(self, images: Images, generator: torch.Generator) -> Images:
        """Images, about half of them mirrored."""
        flip = torch.rand(len(images), generator=generator, device=images.device) < 0.5
        return torch.where(flip[:, None, None, None], images.flip(-1), images)


class Cutout:
    """Blank one square of `size` pixels, centred anywhere, with `fill` per channel (DeVries & Taylor, 2017).

    The papers cut after normalization, so their hole is the mean colour: pass it as `fill`, 0…1 per channel.
    """

    def __init__(self, size: int, fill: Sequence[float]) -> None:
        if size < 1:
            raise ValueError(f"size={size}: at least one pixel")
        self.size, self.fill = size, list(fill)

    def __call__(self, images: Images, generator: torch.Generator) -> Images:
        """Images with one hole each; it may reach over the border."""
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
