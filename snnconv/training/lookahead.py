"""Lookahead: weights that are pulled to their moving average while they train."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

RATE = 0.95  # of the average per step, at the end of the training


class Lookahead:
    """Keeps an average of the weights and buffers of `network`; every few steps both become their mixture.

    The average is renewed by 1 − d, with d = 0.95^every · (share of the training that is over)³, so early weights are hardly
    held back.  Sources: Zhang et al., 2019; the schedule of cifar10-airbench (K. Jordan, 2024).
    """

    def __init__(self, network: nn.Module, every: int) -> None:
        self.network, self.every = network, every
        self.average = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def _tensors(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.network.state_dict().items() if tensor.is_floating_point()}

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Continue with a saved average; KeyError or RuntimeError if it is that of another network."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])

    @torch.no_grad()
    def step(self, number: int, total: int) -> None:
        """After step `number` (1, 2, …) of `total`."""
        if number % self.every and number < total:
            return
        decay = RATE**self.every * (number / total) ** 3
        for name, tensor in self._tensors().items():
            average = self.average[name]
            average.copy_(
                torch.where(average.isnan(), tensor, average.lerp(tensor, 1 - decay))
            )  # NaN: not known at the start
            tensor.copy_(average)
