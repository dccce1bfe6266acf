"""Rules of early exit: each gives every image a score after each step, and an image exits when its score reaches a threshold."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from snnconv.spiking.tasks import Task


class Confidence:
    """The confidence of the task for the mean outputs; of classes the largest softmax probability."""

    thresholds: ClassVar[Sequence[float]] = (1 - torch.logspace(-0.3, -6, 58, dtype=torch.float64)).tolist()

    def __init__(self, task: Task) -> None:
        self.task = task

    def score(self, mean: Float[Tensor, "N *K"], steps: int) -> Float[Tensor, "N"]:
        """Score of each image for its mean outputs over `steps` steps; called once for each step, in order."""
        return self.task.confidence(mean)

    def keep(self, stay: Tensor) -> None:
        """Continue with the images `stay` (indices) only."""


class Margin(Confidence):
    """The margin of the task for the summed outputs; of classes the difference of the two largest sums.

    The sums of an image with constant firing rates move apart by the same amount in each step, while their error, the charge that
    is left in the neurons, stays bounded.  So one threshold has the same meaning at every t, and an image between two
    classes exits later instead of never.
    """

    thresholds = torch.logspace(-2, 4, 200, dtype=torch.float64).tolist()

    def score(self, mean: Float[Tensor, "N *K"], steps: int) -> Float[Tensor, "N"]:
        """Score of each image."""
        return steps * self.task.margin(mean)


class Patience(Confidence):
    """The number of steps since the prediction changed."""

    thresholds = torch.arange(1, 129, dtype=torch.float64).tolist()

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.decisions = self.unchanged = torch.empty(0)

    def score(self, mean: Float[Tensor, "N *K"], steps: int) -> Float[Tensor, "N"]:
        """Score of each image."""
        decisions = self.task.decide(mean).reshape(len(mean), -1)
        if steps == 1:
            self.unchanged = torch.zeros(len(mean), dtype=torch.float64, device=mean.device)
        else:
            self.unchanged = (self.unchanged + 1) * (decisions == self.decisions).all(1)
        self.decisions = decisions
        return self.unchanged

    def keep(self, stay: Tensor) -> None:
        """Continue with the images `stay` (indices) only."""
        self.decisions, self.unchanged = self.decisions[stay], self.unchanged[stay]


RULES: dict[str, type[Confidence]] = {"confidence": Confidence, "margin": Margin, "patience": Patience}
