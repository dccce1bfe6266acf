"""Weights to start a training from."""

import torch
from torch import nn


@torch.no_grad()
def dirac(ann: nn.Module) -> None:
    """Let the first filters of every ungrouped convolution pass one input channel each on; the others stay random.

    As many as there are input channels, if there are as many filters.  Source: cifar10-airbench (K. Jordan, 2024).
    """
    for module in ann.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1:
            nn.init.dirac_(module.weight[: module.in_channels])
