"""Residual networks: with a 3×3 stem, as the conversion papers train them, or with torchvision's for images of 224×224.

The activation stands after the first batch norm of a block and after the addition; shortcuts are the identity or a 1×1
convolution with batch norm.  ResNet-20 has widths 16-32-64 (not the wider network some papers call by the same name).
"""

from collections.abc import Callable, Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from snnconv.runtime.weights import filled


class Block(nn.Module):
    """activation(bn(conv(activation(bn(conv(x))))) + shortcut(x)), two 3×3 convolutions."""

    def __init__(self, channels: int, width: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.act2 = activation()

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """Stride 2 halves height and width."""
        hidden = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages of `blocks` residual blocks (every stage but the first halves the image), global average, linear.

    `downsampling` is the halving: `stride`, in the first block of a stage, or `max_pool`, max pooling before it.

    The `small` stem is a 3×3 convolution.  The `imagenet` stem quarters the image: a 7×7 convolution and max pooling.  Max
    pooling is before the activation.  The activation is monotone, so the outputs equal those of He et al. (2016), where it is after
    the activation; but its input is constant in time, so it needs no operator after conversion.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        num_classes: int,
        input_shape: Sequence[int],
        activation: Callable[[], nn.Module],
        stem: str = "small",
        weights: str | None = None,
        downsampling: str = "stride",
    ) -> None:
        super().__init__()
        if downsampling not in ("stride", "max_pool"):
            raise ValueError(f"model.downsampling={downsampling}: must be stride or max_pool")
        if stem not in ("small", "imagenet"):
            raise ValueError(f"model.stem={stem}: must be small or imagenet")
        channels, small = widths[0], stem == "small"
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(input_shape[0], channels, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        self.act1 = activation()
        stages = []
        for index, (width, repeats) in enumerate(zip(widths, blocks, strict=True)):
            pooled = bool(index) and downsampling == "max_pool"
            strides = [2 if index and not pooled else 1] + [1] * (repeats - 1)
            stage: list[nn.Module] = [nn.MaxPool2d(2)] if pooled else []
            for stride in strides:
                stage.append(Block(channels, width, stride, activation))
                channels = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        filled(self, weights)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Logits."""
        x = self.act1(self.maxpool(self.bn1(self.conv1(images))))
        return self.fc(self.flatten(self.pool(self.stages(x))))


resnet18 = partial(ResNet, (64, 128, 256, 512), (2, 2, 2, 2))
resnet20 = partial(ResNet, (16, 32, 64), (3, 3, 3))
resnet34 = partial(ResNet, (64, 128, 256, 512), (3, 4, 6, 3))
