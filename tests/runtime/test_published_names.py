"""Checkpoints of the repositories of QCFS, SRP and COS, with their names of layers, load and compute the same."""

from pathlib import Path

import pytest
import torch
from torch import nn

from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.functional import qcfs
from snnconv.nn.models.resnet import ResNet
from snnconv.nn.models.vgg import VGG, vgg11
from snnconv.runtime.published_names import translated


class Theirs(nn.Module):
    """QCFS whose θ is a parameter [1] called `thresh` or `up`."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word
        setattr(self, word, nn.Parameter(torch.rand(1) + 0.5))

    def forward(self, x):
        return qcfs(x, getattr(self, self.word)[0], 4)


class TheirBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, word: str, last: str) -> None:
        super().__init__()
        first = [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), Theirs(word)]
        second = [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        self.residual_function, self.shortcut = nn.Sequential(*first, *second), nn.Sequential()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.last = last
        setattr(self, last, Theirs(word))

    def forward(self, x):
        return getattr(self, self.last)(self.residual_function(x) + self.shortcut(x))


class TheirResNet(nn.Module):
    def __init__(self, word: str, last: str, widths=(4, 6, 8), blocks=(2, 1, 2)) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), Theirs(word)
        )
        channels = widths[0]
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            stage = []
            for number in range(count):
                stage.append(TheirBlock(channels, width, 2 if index and not number else 1, word, last))
                channels = width
            setattr(self, f"conv{index + 2}_x", nn.Sequential(*stage))
        self.count = len(widths)
        self.fc = nn.Linear(channels, 5)

    def forward(self, x):
        x = self.conv1(x)
        for index in range(self.count):
            x = getattr(self, f"conv{index + 2}_x")(x)
        return self.fc(x.mean((2, 3)))


class TheirVGG11(nn.Module):
    def __init__(self, word: str, width: int) -> None:
        super().__init__()
        channels = 3
        for stage, widths in enumerate(((64,), (128,), (256, 256), (512, 512), (512, 512)), 1):
            layers: list[nn.Module] = []
            for out in (size * width // 512 for size in widths):
                layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), Theirs(word), nn.Dropout(0.0)]
                channels = out
            setattr(self, f"layer{stage}", nn.Sequential(*layers, nn.AvgPool2d(2)))
        head = [nn.Flatten(), nn.Linear(channels, 4096), Theirs(word), nn.Dropout(0.0)]
        self.classifier = nn.Sequential(*head, nn.Linear(4096, 4096), Theirs(word), nn.Dropout(0.0), nn.Linear(4096, 5))

    def forward(self, x):
        for stage in range(1, 6):
            x = getattr(self, f"layer{stage}")(x)
        return self.classifier(x)


def trained(network: nn.Module) -> nn.Module:
    """With statistics of batch norms that are not those of a new network."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def assert_same(theirs: nn.Module, make, file: Path) -> None:
    torch.save(theirs.state_dict(), file)
    ours, images = make(weights=str(file)).eval(), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(("word", "last"), [("thresh", "act"), ("up", "relu")])
def test_resnets_load(word: str, last: str, tmp_path: Path):
    def make(weights: str) -> nn.Module:
        return ResNet((4, 6, 8), (2, 1, 2), 5, [3, 32, 32], lambda: QCFS(4, 8.0), weights=weights)

    assert_same(trained(TheirResNet(word, last)), make, tmp_path / "net.pth")


def test_names_of_a_vgg():
    """Every tensor has the name and the shape of ours."""
    with torch.device("meta"):
        theirs, ours = TheirVGG11("theta", 512).state_dict(), vgg11(5, [3, 32, 32], lambda: QCFS(4)).state_dict()
    renamed = translated(theirs)
    assert renamed.keys() == ours.keys()
    assert all(renamed[name].numel() == tensor.numel() for name, tensor in ours.items())


@pytest.mark.long
@pytest.mark.parametrize("word", ["thresh", "up"])
def test_vggs_load(word: str, tmp_path: Path, monkeypatch):
    """Narrow ones; the head of 4096 units stays."""
    monkeypatch.setattr("snnconv.nn.models.vgg.WIDTHS", (8, 16, 32, 64, 64))

    def make(weights: str) -> nn.Module:
        return VGG(11, 5, [3, 32, 32], lambda: QCFS(4, 8.0), weights=weights)

    assert_same(trained(TheirVGG11(word, 64)), make, tmp_path / "net.pth")


def test_another_network_is_still_refused(tmp_path: Path):
    torch.save(TheirResNet("up", "relu").state_dict(), tmp_path / "net.pth")
    with pytest.raises(
        ValueError, match=r"net\.pth does not fit ResNet:\n  .*conv1\.weight is \[4, 3, 3, 3\], expected \[5, 3, 3, 3\]"
    ):
        ResNet((5, 6, 8), (2, 1, 2), 5, [3, 8, 8], lambda: QCFS(4, 8.0), weights=str(tmp_path / "net.pth"))
