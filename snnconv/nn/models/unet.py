"""A small U-Net (Ronneberger et al., 2015): an output for every pixel."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from snnconv.runtime.weights import filled


class UNet(nn.Module):
    """Images [N, C, H, W] → maps [N, K, H, W]: halved for each width except the first, then doubled again, with shortcuts.

    An activation follows every upsampling, so that all layers after the first receive only spikes.
    """

    def __init__(self, outputs: int, channels: int, activation: Callable[[], nn.Module], widths: Sequence[int]) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.stem = _block(channels, widths[0], activation)
        self.down = nn.ModuleList(nn.Sequential(nn.AvgPool2d(2), _block(a, b, activation)) for a, b in pairs)
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(b, a, 2, stride=2), activation()) for a, b in reversed(pairs)
        )
        self.merge = nn.ModuleList(_block(2 * a, a, activation) for a, _ in reversed(pairs))
        self.head = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The map of each image."""
        features = [self.stem(images)]
        for down in self.down:
            features.append(down(features[-1]))
        x = features.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([features.pop(), up(x)], 1))
        return self.head(x)


def unet(
    num_classes: int,
    input_shape: Sequence[int],
    activation: Callable[[], nn.Module],
    widths: Sequence[int] = (16, 32, 64),
    weights: str | None = None,
) -> nn.Module:
    """A `UNet` for images of `input_shape`; ValueError unless they can be halved as often as it has widths, but one."""
    factor = 2 ** (len(widths) - 1)
    if len(input_shape) != 3 or any(side % factor for side in input_shape[1:]):
        raise ValueError(f"model=unet needs images [C, H, W] whose sides are multiples of {factor}, got {list(input_shape)}; "
                         f"change data.image_size, or model.widths={list(widths)}")  # fmt: skip
    return filled(UNet(num_classes, input_shape[0], activation, widths), weights)


def _block(inputs: int, outputs: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), activation())
