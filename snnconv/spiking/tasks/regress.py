"""Numbers for each sample."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from snnconv.spiking.metrics import measure
from snnconv.spiking.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class Regress(Task):
    """Regression: squared error in units of the targets' standard deviation; the score is 1 − error² / variance, its mean is R².

    The output of the network is (target − mean) / std, for each output; metrics receive numbers in the unit of the targets.
    """

    name = "regress"
    score = "R²"
    expects = "numbers in floating point, [N, K]"
    targets: str = "numbers"
    mean: Sequence[float] | Tensor | None = None
    std: Sequence[float] | Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std"):
            if isinstance(value := getattr(self, name), Tensor):
                object.__setattr__(self, name, value.flatten().tolist())
        if self.std is not None and any(value <= 0 for value in self.std):
            raise ValueError(f"task.std={list(self.std)}: must be positive")

    def _scaled(self, targets: Tensor) -> Tensor:
        return (targets - self._column(self.mean, 0.0, targets)) / self._column(self.std, 1.0, targets)

    def _column(self, values: Sequence[float] | Tensor | None, default: float, like: Tensor) -> Tensor:
        numbers = torch.tensor([default] if values is None else list(values), dtype=like.dtype, device=like.device)
        return numbers.view(-1, *[1] * (like.dim() - 2))

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
        """The mean loss of a batch."""
        if outputs.shape != targets.shape:
            raise ValueError(f"outputs {list(outputs.shape)}, targets {list(targets.shape)}")
        return F.mse_loss(outputs, self._scaled(targets).to(outputs.dtype))

    def distance(self, outputs: Tensor, taught: Tensor, temperature: float = 1.0) -> Float[Tensor, ""]:
        """The mean squared distance from a teacher, in units of the targets' deviation; there is no temperature."""
        return F.mse_loss(outputs, taught)

    def right(self, outputs: Tensor, targets: Tensor) -> Shaped[Tensor, "*T N"]:
        """The score of every sample."""
        error = (outputs.double() - self._scaled(targets.double())).square()
        return 1 - error.flatten(outputs.dim() - targets.dim() + 1).mean(-1)

    def prepared(self, targets: Any) -> Task:
        """This task, with the mean absolute error as its metric if it has no metric."""
        super().prepared(targets)
        if isinstance(targets, Tensor) and len(targets) > 1:
            spread = targets.transpose(0, 1).flatten(1).aminmax(dim=1)
            if equal := (spread.min == spread.max).nonzero().flatten().tolist():
                raise ValueError(f"task=regress: all training targets of output {equal[0]} are {spread.min[equal[0]]:.6g}; "
                                 "omit this output")  # fmt: skip
        return self if self.metrics else replace(self, metrics={"mae": measure("MeanAbsoluteError")})

    def decide(self, outputs: Tensor) -> Tensor:
        """The predictions that correspond to outputs."""
        return (outputs * 100).round()  # to a hundredth of the deviation

    def shown(self, outputs: Tensor) -> Tensor:
        """Outputs in the form that metrics expect."""
        return outputs * self._column(self.std, 1.0, outputs) + self._column(self.mean, 0.0, outputs)

    def fits(self, targets: Tensor) -> bool:
        """Whether `targets` have the type and shape of this task."""
        return targets.dim() > 1 and targets.is_floating_point()
