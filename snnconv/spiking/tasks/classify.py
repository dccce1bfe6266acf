"""One class for each sample."""

import logging
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from snnconv.spiking.tasks.base import Task
from snnconv.spiking.tasks.class_weights import ClassWeights, as_tensor, balanced, require_weights
from snnconv.spiking.tasks.distances import distillation

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Classify(Task):
    """One class for each sample: cross-entropy, accuracy.

    class_weights  weights of the loss by class: a list, or "balanced": inversely proportional to the classes' frequency.
    """

    name = "classify"
    score = "accuracy"
    expects = "integers [N], a class for each sample"
    kind: str | None = "multiclass"
    class_weights: ClassWeights = None

    _ignored: ClassVar[int] = -100  # as in torch

    def __post_init__(self) -> None:
        super().__post_init__()
        require_weights(self.class_weights)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
        """The mean loss of a batch."""
        weights = as_tensor(self.class_weights, outputs)
        return F.cross_entropy(
            outputs, targets.long(), weight=weights, label_smoothing=label_smoothing, ignore_index=self._ignored
        )

    def distance(self, outputs: Tensor, taught: Tensor, temperature: float = 1.0) -> Float[Tensor, ""]:
        """The mean distance from a teacher."""
        return distillation(outputs, taught, temperature)

    def right(self, outputs: Tensor, targets: Tensor) -> Shaped[Tensor, "*T N"]:
        """The score of every sample."""
        return outputs.argmax(-1) == targets

    def decide(self, outputs: Tensor) -> Tensor:
        """The predictions that correspond to outputs."""
        return outputs.argmax(-1)

    def confidence(self, outputs: Tensor) -> Float[Tensor, "*T N"]:
        """The largest probability of every sample."""
        return outputs.softmax(-1).amax(-1)

    def margin(self, outputs: Tensor) -> Float[Tensor, "*T N"]:
        """The difference of the two largest outputs of every sample."""
        largest = outputs.topk(2, -1).values
        return largest[..., 0] - largest[..., 1]

    def shown(self, outputs: Tensor) -> Tensor:
        """Outputs in the form that metrics expect."""
        return outputs.softmax(1)

    def fits(self, targets: Tensor) -> bool:
        """Whether `targets` have the type and shape of this task."""
        return targets.dim() == 1 and not targets.is_floating_point()

    def prepared(self, targets: Any) -> Task:
        """This task with class weights as numbers; ValueError if the number of weights differs from the number of classes."""
        super().prepared(targets)
        weights = self.class_weights
        if not isinstance(targets, Tensor):
            return self
        counts = targets[targets != self._ignored].bincount()
        self._require_several(counts)
        if weights is None:
            return self
        if isinstance(weights, str):
            return replace(self, class_weights=balanced(counts))
        if len(weights) < len(counts):
            raise ValueError(f"task.class_weights: {len(weights)} weights for {len(counts)} classes")
        return self

    def _require_several(self, counts: Tensor) -> None:
        """ValueError unless there are training samples of two classes; a warning about classes without any."""
        present = counts.nonzero().flatten().tolist()
        if len(present) < 2:
            held = f"class {present[0]} alone" if present else "no class"
            besides = f", and {self._ignored} counts as no label" if self._ignored >= 0 else ""
            raise ValueError(
                f"task={self.name}: the training targets hold {held}{besides}; at least two classes are needed"
            )
        if len(present) < len(counts):
            missing = next(number for number, count in enumerate(counts.tolist()) if not count)
            log.warning("no training sample has class %d, of classes up to %d; are they numbered from 0 without gaps?",
                        missing, len(counts) - 1)  # fmt: skip
