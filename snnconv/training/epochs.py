"""Parts of every training loop: a schedule, the sums of an epoch, and the check that numbers are finite."""

import math

import torch
from torch import Tensor, nn

from snnconv.runtime import distributed


def half_cosine(angle: float) -> float:
    """½(1 + cos `angle`): the factor of a learning rate that decreases from 1 at angle 0 to 0 at π."""
    return 0.5 * (1 + math.cos(angle))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group of `optimizer` to `lr`, times its "lr_scale" if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def all_finite(network: nn.Module) -> bool:
    """Whether all weights and buffers of `network` are finite."""
    return all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


class Totals:
    """Sums of loss, correct predictions and samples of an epoch, kept on the device so that no step waits for a transfer."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, right: Tensor) -> None:
        """Add one step: its mean loss, and the score of each sample [N]."""
        loss = loss.detach().double()
        count = torch.full_like(loss, len(right))  # filled on the device: a copy to it would make every step wait
        self.sums += torch.stack([loss * count, right.sum().double(), count])

    def means(self) -> tuple[float, float]:
        """Mean loss and accuracy so far, of this process."""
        return self._of(self.sums)

    def over_ranks(self) -> tuple[float, float]:
        """Mean loss and accuracy so far, of all processes."""
        return self._of(distributed.sum_over_ranks(self.sums.clone()))

    @staticmethod
    def _of(sums: Tensor) -> tuple[float, float]:
        loss, correct, samples = sums.tolist()
        return (loss / samples, correct / samples) if samples else (math.nan, math.nan)
