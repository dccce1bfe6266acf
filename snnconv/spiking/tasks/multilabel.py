"""Any number of labels for each sample."""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from snnconv.spiking.tasks.base import Task
from snnconv.spiking.tasks.class_weights import ClassWeights, as_tensor, require_weights
from snnconv.spiking.tasks.distances import bernoulli_distance


@dataclass(frozen=True, kw_only=True)
class Multilabel(Task):
    """Any number of labels for each sample: binary cross-entropy, share of correct labels.

    label_weights  of the loss of samples that have a label: a list with a weight for each label, or "balanced": the number of
                   samples without the label by that of samples with it.
    """

    name = "multilabel"
    score = "label accuracy"
    expects = "0 and 1 [N, K], one for each label"
    targets: str = "numbers"
    kind: str | None = "multilabel"
    label_weights: ClassWeights = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_weights(self.label_weights, "label_weights")

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
        """The mean loss of a batch."""
        smoothed = targets * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else targets
        weights = as_tensor(self.label_weights, outputs)
        return F.binary_cross_entropy_with_logits(outputs, smoothed.to(outputs.dtype), pos_weight=weights)

    def distance(self, outputs: Tensor, taught: Tensor, temperature: float = 1.0) -> Float[Tensor, ""]:
        """The mean distance of all labels from a teacher's."""
        return bernoulli_distance(outputs, taught, temperature)

    def right(self, outputs: Tensor, targets: Tensor) -> Shaped[Tensor, "*T N"]:
        """The score of every sample."""
        return ((outputs > 0) == (targets > 0.5)).double().mean(-1)

    def decide(self, outputs: Tensor) -> Tensor:
        """The predictions that correspond to outputs."""
        return outputs > 0

    def confidence(self, outputs: Tensor) -> Float[Tensor, "*T N"]:
        """The probability of the least certain decision on every sample."""
        return outputs.abs().sigmoid().amin(-1)

    def margin(self, outputs: Tensor) -> Float[Tensor, "*T N"]:
        """The distance from 0 of the output that is closest to 0."""
        return outputs.abs().amin(-1)

    def shown(self, outputs: Tensor) -> Tensor:
        """Outputs in the form that metrics expect."""
        return outputs.sigmoid()

    def fits(self, targets: Tensor) -> bool:
        """Whether `targets` have the type and shape of this task."""
        return targets.dim() == 2 and targets.is_floating_point() and bool(((targets == 0) | (targets == 1)).all())

    def prepared(self, targets: Any) -> Task:
        """This task with label weights as numbers; ValueError if the number of weights differs from the number of labels."""
        super().prepared(targets)
        weights = self.label_weights
        if weights is None or not isinstance(targets, Tensor):
            return self
        if isinstance(weights, str):
            have = targets.double().sum(0)
            if (have == 0).any():
                raise ValueError(
                    f"task.label_weights=balanced: no training sample has label {int((have == 0).nonzero()[0])}"
                )
            return replace(self, label_weights=((len(targets) - have) / have).tolist())
        if len(weights) != targets.shape[1]:
            raise ValueError(f"task.label_weights: {len(weights)} weights for {targets.shape[1]} labels")
        return self
