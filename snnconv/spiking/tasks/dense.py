"""A class for each pixel."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor

from snnconv.data.facts import UNLABELLED
from snnconv.spiking.tasks.classify import Classify
from snnconv.spiking.tasks.distances import distillation


@dataclass(frozen=True, kw_only=True)
class Dense(Classify):
    """A class for each pixel: cross-entropy, share of correct pixels; pixels of class 255 do not count."""

    name = "dense"
    score = "pixel accuracy"
    expects = "integers [N, H, W], a class for each pixel"
    _ignored: ClassVar[int] = UNLABELLED

    def distance(self, outputs: Tensor, taught: Tensor, temperature: float = 1.0) -> Float[Tensor, ""]:
        """The mean distance of all pixels from a teacher's."""
        return distillation(outputs.movedim(-3, -1), taught.movedim(-3, -1), temperature)

    def right(self, outputs: Tensor, targets: Tensor) -> Shaped[Tensor, "*T N"]:
        """The score of every sample."""
        counted = targets != UNLABELLED
        right = (self.decide(outputs, targets.dim()) == targets) & counted
        space = tuple(range(1 - targets.dim(), 0))
        return right.sum(space) / counted.sum(space).clamp_min(1).double()

    def decide(self, outputs: Tensor, axes: int = 3) -> Tensor:
        """The predictions that correspond to outputs."""
        return outputs.argmax(-axes)

    def confidence(self, outputs: Tensor) -> Float[Tensor, "*T N"]:
        """The largest probability of a pixel, mean over the pixels of every sample."""
        return outputs.softmax(-3).amax(-3).mean((-2, -1))

    def margin(self, outputs: Tensor) -> Float[Tensor, "*T N"]:
        """The difference of the two largest outputs of a pixel, mean over the pixels of every sample."""
        largest = outputs.topk(2, -3).values
        return (largest.select(-3, 0) - largest.select(-3, 1)).mean((-2, -1))

    def fits(self, targets: Tensor) -> bool:
        """Whether `targets` have the type and shape of this task."""
        return targets.dim() > 1 and not targets.is_floating_point()
