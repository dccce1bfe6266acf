"""Trained ReLU networks for the comparison with other tools, every ReLU a module of its own, and their images."""

from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

from snnconv.data.splits import Splits

CONF = Path(__file__).resolve().parents[2] / "conf"


class Block(nn.Module):
    """Residual block of akamaster/pytorch_resnet_cifar10.

    Its shortcuts take every second pixel and append channels of zeros; some tools refuse slices and padding, so a convolution
    with fixed weights of 0 and 1 computes the same here.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(width), nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(width), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)
            nn.init.zeros_(self.shortcut.weight)
            with torch.no_grad():
                self.shortcut.weight[width // 4 : width // 4 + channels, :, 0, 0] = torch.eye(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Stride 2 halves height and width."""
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + self.shortcut(x))


def _stage(channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(channels, width, stride), Block(width, width, 1), Block(width, width, 1))


class ResNet20(nn.Module):
    """Modules have the names of the published weights (`resnet20-12fca82f.th`)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(16), nn.ReLU()
        self.layer1, self.layer2, self.layer3 = _stage(16, 16, 1), _stage(16, 32, 2), _stage(32, 64, 2)
        self.pool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.linear(self.pool(x).flatten(1))


def cifar10_resnet20(weights: Path) -> tuple[nn.Module, Splits]:
    """The published ResNet-20 on CIFAR-10, with the normalization of its training."""
    network, state = ResNet20(), torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    shortcuts = {key: value for key, value in network.state_dict().items() if "shortcut" in key}
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()} | shortcuts)
    norm = ("data.mean=[0.485,0.456,0.406]", "data.std=[0.229,0.224,0.225]")
    return network.eval(), _data("data=cifar10", *norm)


def digits_cnn() -> tuple[nn.Module, Splits]:
    """A small convolutional network, trained for 20 epochs on the bundled digits."""
    import snnconv

    data = _data("data=digits")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64),
        nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    snnconv.fit(network, data.train, data.valid, epochs=20, lr=0.05)
    return network.eval(), data


def images(batches: Any, count: int, batch: int) -> list[tuple[Tensor, Tensor]]:
    """The first `count` normalized images and labels in batches."""
    parts = list(batches)
    x, y = torch.cat([part[0] for part in parts])[:count], torch.cat([part[1] for part in parts])[:count]
    return list(zip(x.split(batch), y.split(batch), strict=True))


def _data(*overrides: str) -> Splits:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("config", ["device=cpu", *overrides]).data)
