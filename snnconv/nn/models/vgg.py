"""VGG for small and large images, as the conversion papers train it: average pooling, batch norm, a 4096-4096 head."""

from collections.abc import Callable, Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from snnconv.runtime.weights import filled

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five stages of 3×3 convolutions, each followed by 2×2 average pooling, then three linear layers.

    A pooling stage that would shrink the image below 1×1 is left out, so that 8×8 digits fit.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        input_shape: Sequence[int],
        activation: Callable[[], nn.Module],
        dropout: float = 0.0,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        layers: list[nn.Module] = []
        for stage, repeats in zip(WIDTHS, CONVOLUTIONS[depth], strict=True):
            for _ in range(repeats):
                layers += [nn.Conv2d(channels, stage, 3, padding=1), nn.BatchNorm2d(stage), activation()]
                channels = stage
            if min(height, width) > 1:
                layers.append(nn.AvgPool2d(2))
                height, width = height // 2, width // 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * height * width, 4096),
            activation(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            activation(),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        filled(self, weights)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Logits."""
        return self.classifier(self.features(images))


vgg11, vgg13, vgg16, vgg19 = (partial(VGG, depth) for depth in CONVOLUTIONS)
