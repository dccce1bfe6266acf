"""Initial weights of a training."""

from typing import Any

import torch
from torch import nn


@torch.no_grad()
def dirac(ann: nn.Module) -> None:
    """Set the first filters of every ungrouped convolution to the identity of one input channel each; others stay random.

    There is one identity filter for each input channel, as far as there are filters.  Source: cifar10-airbench (K. Jordan, 2024).
    """
    for module in ann.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1:
            nn.init.dirac_(module.weight[: module.in_channels])


@torch.no_grad()
def infer_shapes(ann: nn.Module, train: Any) -> None:
    """Run `ann` on two inputs in eval mode if it has parameters that take their shape from the first input."""
    if not any(hasattr(module, "take_shapes") for module in ann.modules()):
        return
    mode = ann.training
    with torch.random.fork_rng(devices=[]):  # iterating a loader consumes random numbers
        inputs, _ = next(iter(train))
    ann.eval().to(inputs.device)(inputs[:2])
    ann.train(mode)
