"""The networks of the study: two stored runs of the tests, and three that are trained on digits first."""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn import functional as F

import snnconv
from snnconv.conversion.methods import qcfs
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.models.vgg import vgg11
from snnconv.runtime.checkpoint import load_ann
from snnconv.spiking.model import SpikingModel

ROOT = Path(__file__).parents[2]
LEVELS, EPOCHS, TIMESTEPS = 4, 8, 8


@dataclass(frozen=True)
class Subject:
    """A trained network, its spiking network, and the digits: `x` and `y` are all test images and their classes."""

    name: str
    ann: nn.Module
    snn: SpikingModel
    data: Any
    x: Tensor
    y: Tensor

    def accuracy(self, scores: Tensor) -> str:
        """Accuracy in percent of `scores` [N, K]."""
        return f"{100 * (scores.argmax(1) == self.y).float().mean():.2f}"


def subject(name: str) -> Subject:
    """The network called `name`; ValueError listing all names for an unknown one."""
    if name not in NETWORKS:
        raise ValueError(f"{name}: must be one of {', '.join(NETWORKS)}")
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        data = instantiate(compose("config", ["model=mlp", f"levels={LEVELS}", "device=cpu"]).data)
    make = NETWORKS[name]
    ann = _trained(make, data) if make else load_ann(ROOT / "tests" / "stored_runs" / name)
    x, y = (torch.cat(parts) for parts in zip(*data.test, strict=True))
    return Subject(name, ann, qcfs.convert(ann, []), data, x, y)


def _trained(make: Callable[[Any], nn.Module], data: Any) -> nn.Module:
    torch.manual_seed(0)
    network = make(partial(QCFS, LEVELS, 4.0))
    with contextlib.redirect_stdout(sys.stderr):
        snnconv.fit(network, data.train, epochs=EPOCHS, lr=0.05)
    return network.eval()


def _small_vgg(activation: Any) -> nn.Module:
    """Four convolutions with average pooling and two linear layers, small enough for a simulation of its circuit."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise((1, 8, 8, 16, 16))):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), activation()]
        layers += [nn.AvgPool2d(2)] if number % 2 else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 32), activation(), nn.Linear(32, 10))


class Mobile(nn.Module):
    """Inverted residual blocks as in MobileNetV2: 1×1, depthwise 3×3 and linear 1×1 convolutions."""

    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), activation())
        sizes = ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1))
        self.blocks = nn.ModuleList(_inverted(*size, activation) for size in sizes)
        self.residual = [before == after for before, after, _ in sizes]
        self.head = nn.Sequential(nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64), activation())
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        for block, residual in zip(self.blocks, self.residual, strict=True):
            x = x + block(x) if residual else block(x)
        return self.linear(F.adaptive_avg_pool2d(self.head(x), 1).flatten(1))


def _inverted(before: int, after: int, stride: int, activation: Any) -> nn.Sequential:
    wide = 4 * before
    return nn.Sequential(
        nn.Conv2d(before, wide, 1, bias=False), nn.BatchNorm2d(wide), activation(),
        nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), activation(),
        nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[Any], nn.Module] | None] = {
    "mlp": None,
    "small_vgg": _small_vgg,
    "resnet20": None,
    "vgg11": partial(vgg11, 10, (1, 8, 8)),
    "mobile": Mobile,
}  # None: a stored run
