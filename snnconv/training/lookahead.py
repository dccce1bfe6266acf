"""Lookahead: weights are repeatedly moved towards their moving average during training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

RATE = 0.95  # of the average per step, at the end of the training


class Lookahead:
    """Stores an average of the weights and buffers of `network`; every few steps average and network are set to their mixture.

    The average is updated with weight 1 − d, d = 0.95^every · (completed share of the training)³, so it has little effect early in
    the training.  Sources: Zhang et al., 2019; the schedule of cifar10-airbench (K. Jordan, 2024).
    """

    def __init__(self, network: nn.Module, every: int) -> None:
        self.network, self.every = network, every
        self.average = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def _tensors(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.network.state_dict().items() if tensor.is_floating_point()}

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Continue with a saved average; KeyError or RuntimeError if it belongs to another network."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])

    @torch.no_grad()
    def step(self, number: int, total: int) -> None:
        """Update after step `number` (1, 2, …) of `total`."""
        if number % self.every and number < total:
            return
        decay = RATE**self.every * (number / total) ** 3
        for name, tensor in self._tensors().items():
            average = self.average[name]
            average.copy_(
                torch.where(average.isnan(), tensor, average.lerp(tensor, 1 - decay))
            )  # NaN: not known at the start
            tensor.copy_(average)
