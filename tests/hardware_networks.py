"""Networks whose integer programs hold every kind of step."""

import torch
from torch import nn
from torch.nn import functional as F

from networks import Net, plain, residual
from snnconv.nn.activations.qcfs import QCFS


def act():
    return QCFS(4, 1.0)


def shortcut_a() -> nn.Module:
    """Every second pixel, channels padded with zeros; padding, dilation, groups and a pool with padding on the way."""

    def forward(net, x):
        x = net.a(net.stem(x))
        beside = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        x = net.c(net.down(net.b(net.deep(x))) + beside)
        return net.fc(net.pool(x).flatten(1))

    return Net(
        forward,
        stem=nn.Conv2d(1, 4, (3, 2), padding=(1, 1)), a=act(),
        deep=nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2), b=act(),
        down=nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=3), c=act(),
        pool=nn.AvgPool2d(2, 1, 1), fc=nn.Linear(72, 3),
    ).eval()  # fmt: skip


def low_rank() -> nn.Module:
    """A 3×3 convolution in two halves, and a linear layer in two."""
    return nn.Sequential(nn.Conv2d(1, 2, (3, 1), padding=(1, 0), bias=False), nn.Conv2d(2, 5, (1, 3), padding=(0, 1)), act(),
                         nn.Flatten(), nn.Linear(80, 4, bias=False), nn.Linear(4, 6), act(), nn.Linear(6, 3)).eval()  # fmt: skip


def pooled() -> nn.Module:
    """Average pooling of currents: before a neuron, after additions, read with and without pooling, and as logits."""

    def forward(net, x):
        x = net.a(F.avg_pool2d(net.stem(x), 3, 1, 1))
        y = net.one(x) + x
        beside = net.b(net.pool(y) + net.two(x) + x[:, :, ::2, ::2])
        return net.last(beside).mean((2, 3)) + torch.flatten(net.head(net.c(y)), 1)

    return Net(
        forward,
        stem=nn.Conv2d(1, 4, 3, padding=1), a=act(),
        one=nn.Conv2d(4, 4, 3, padding=1), two=nn.Conv2d(4, 4, 2, stride=2), pool=nn.AvgPool2d(2), b=act(), c=act(),
        last=nn.Conv2d(4, 3, 1), head=nn.Sequential(nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1)),
    ).eval()  # fmt: skip


def spikes_out() -> nn.Module:
    """Neurons at the end: the outputs are spikes, averaged over height and width."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), act(), nn.Conv2d(4, 3, 3), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()


NETWORKS = {
    "plain": lambda: plain(act),
    "residual": lambda: residual(act),
    "shortcut_a": shortcut_a,
    "low_rank": low_rank,
    "pooled": pooled,
    "spikes_out": spikes_out,
}


class Signals(nn.Module):
    """Images [N, 1, 4, 4] as signals [N, 4, 4] of four channels: padding, stride, dilation, groups."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.a = nn.Conv1d(4, 4, 3, padding=2, dilation=2), act()
        self.two, self.b = nn.Conv1d(4, 6, 2, stride=2, groups=2), act()
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        """Logits."""
        x = self.b(self.two(self.a(self.one(x))))
        return self.fc(x.flatten(1))
