"""Tasks: loss, score, readout and metrics for classes, labels, numbers and maps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from snnconv.data.facts import UNLABELLED
from snnconv.spiking.metrics import Measure, measure, update

READOUTS = ("mean", "membrane", "last")
LEAK = 4.0  # time constant of the readout "membrane", in steps


@dataclass(frozen=True, kw_only=True)
class Task:
    """Base class of the tasks; ValueError for values out of range.

    The score of a sample is a fraction; higher is better.  Tables show its mean as the "accuracy", and `metrics` next to it.
    readout  output of a spiking network at t: "mean", the mean over all steps up to t; "membrane", the potential of a leaky
             integrator with a time constant of 4 steps, which forgets early steps; "last", the output of step t only.
    """

    name: ClassVar[str]
    score: ClassVar[str]  # name of the mean score
    readout: str = "mean"
    metrics: Mapping[str, Measure] = field(default_factory=dict)
    targets: str = "classes"  # type of the targets in files: classes | numbers
    kind: str | None = None  # kind of classification in torchmetrics

    def __post_init__(self) -> None:
        if self.readout not in READOUTS:
            raise ValueError(f"task.readout={self.readout!r}: must be {', '.join(READOUTS[:-1])} or {READOUTS[-1]}")

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
        """The mean loss of a batch."""
        raise NotImplementedError

    def right(self, outputs: Tensor, targets: Tensor) -> Shaped[Tensor, "*T N"]:
        """The score of every sample, for `outputs` [N, …], or [T, N, …] at several T."""
        raise NotImplementedError

    def decide(self, outputs: Tensor) -> Tensor:
        """The predictions that correspond to outputs."""
        raise NotImplementedError

    def shown(self, outputs: Tensor) -> Tensor:
        """Outputs [N, …] in the form that metrics expect: probabilities, or numbers in the unit of the targets."""
        raise NotImplementedError

    def fits(self, targets: Tensor) -> bool:
        """Whether `targets` [N, …] have the type and shape of this task."""
        raise NotImplementedError

    def prepared(self, targets: Any) -> "Task":
        """This task for a data set with these training targets; ValueError if they do not fit the task."""
        if isinstance(targets, Tensor) and not self.fits(targets):
            others = [name for name, kind in TASKS.items() if kind().fits(targets)]
            raise ValueError(f"task={self.name}: targets are {targets.dtype} {list(targets.shape)}; "
                             f"they fit task={' or '.join(others) or '(none)'}")  # fmt: skip
        return self

    def require_classes(self, what: str) -> None:
        """Raise a ValueError that names `what` unless the task is classification."""
        if self.name != "classify":
            raise ValueError(f"{what}: supports only task=classify, not task={self.name}")

    @torch.no_grad()
    def try_out(self, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Raise a ValueError unless outputs of `network` fit targets and metrics, on a few samples; its mode is restored."""
        was_training = network.training
        for inputs, targets in islice(batches, 1):
            outputs = network.eval().to(inputs.device)(inputs[:2])
            self.require_outputs(outputs, targets[:2])
            for name, each in self.metrics.items():
                try:
                    update(each.start(inputs.device), self.shown(outputs), targets[:2])
                except (RuntimeError, ValueError, TypeError) as error:
                    reason = str(error).partition("\n")[0]
                    raise ValueError(
                        f"metric={name}: does not fit task={self.name} ({reason}); choose another metric"
                    ) from error
        network.train(was_training)

    def require_outputs(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise a ValueError unless `outputs` fit the `targets` of the same samples."""
        try:
            self.right(outputs, targets)
            self.loss(outputs, targets)
        except (RuntimeError, IndexError, ValueError) as error:
            raise ValueError(f"task={self.name}: the network returns {list(outputs.shape)}, the targets are {list(targets.shape)}; "
                             "choose another model (task=dense: model=unet), or another task") from error  # fmt: skip

    def read(self, outputs: Float[Tensor, "T N *K"], readout_from: int = 1) -> Float[Tensor, "T N *K"]:
        """The readout at each t, from the outputs of every step."""
        if self.readout == "last":
            return outputs.double()
        if self.readout == "mean":
            return running_mean(outputs, readout_from)
        potential, potentials = torch.zeros_like(outputs[0], dtype=torch.float64), []
        for t, output in enumerate(outputs.double(), 1):
            potential = potential + (output - potential) / LEAK
            potentials.append(potential / (1 - (1 - 1 / LEAK) ** t))
        return torch.stack(potentials)


@dataclass(frozen=True, kw_only=True)
class Classify(Task):
    """One class for each sample: cross-entropy, accuracy.

    class_weights  weights of the loss by class: a list, or "balanced": inversely proportional to the classes' frequency.
    """

    name = "classify"
    score = "accuracy"
    kind: str | None = "multiclass"
    class_weights: Literal["balanced"] | Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = self.class_weights
        if isinstance(weights, str) and weights != "balanced":
            raise ValueError(f"task.class_weights={weights!r}: must be balanced, or a weight for each class")
        if not isinstance(weights, str) and any(value < 0 for value in weights or ()):
            raise ValueError(f"task.class_weights={list(weights or ())}: must not be negative")

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
        """The mean loss of a batch."""
        weights = (
            None
            if self.class_weights is None
            else torch.as_tensor(self.class_weights, dtype=outputs.dtype, device=outputs.device)
        )
        return F.cross_entropy(
            outputs, targets, weight=weights, label_smoothing=label_smoothing, ignore_index=self._ignored
        )

    _ignored: ClassVar[int] = -100  # as in torch

    def right(self, outputs: Tensor, targets: Tensor) -> Shaped[Tensor, "*T N"]:
        """The score of every sample."""
        return outputs.argmax(-1) == targets

    def decide(self, outputs: Tensor) -> Tensor:
        """The predictions that correspond to outputs."""
        return outputs.argmax(-1)

    def shown(self, outputs: Tensor) -> Tensor:
        """Outputs in the form that metrics expect."""
        return outputs.softmax(1)

    def fits(self, targets: Tensor) -> bool:
        """Whether `targets` have the type and shape of this task."""
        return targets.dim() == 1 and not targets.is_floating_point()

    def prepared(self, targets: Any) -> "Task":
        """This task with class weights as numbers; ValueError if the number of weights differs from the number of classes."""
        super().prepared(targets)
        weights = self.class_weights
        if weights is None or not isinstance(targets, Tensor):
            return self
        counts = targets[targets != self._ignored].bincount().double()
        if isinstance(weights, str):
            if (counts == 0).any():
                raise ValueError(
                    f"task.class_weights=balanced: no training sample has class {int((counts == 0).nonzero()[0])}"
                )
            return replace(self, class_weights=(counts.sum() / (len(counts) * counts)).tolist())
        if len(weights) < len(counts):
            raise ValueError(f"task.class_weights: {len(weights)} weights for {len(counts)} classes")
        return self


@dataclass(frozen=True, kw_only=True)
class Dense(Classify):
    """A class for each pixel: cross-entropy, share of correct pixels; pixels of class 255 do not count."""

    name = "dense"
    score = "pixel accuracy"
    _ignored: ClassVar[int] = UNLABELLED

    def right(self, outputs: Tensor, targets: Tensor) -> Shaped[Tensor, "*T N"]:
        """The score of every sample."""
        counted = targets != UNLABELLED
        right = (self.decide(outputs, targets.dim()) == targets) & counted
        space = tuple(range(1 - targets.dim(), 0))
        return right.sum(space) / counted.sum(space).clamp_min(1).double()

    def decide(self, outputs: Tensor, axes: int = 3) -> Tensor:
        """The predictions that correspond to outputs."""
        return outputs.argmax(-axes)

    def fits(self, targets: Tensor) -> bool:
        """Whether `targets` have the type and shape of this task."""
        return targets.dim() > 1 and not targets.is_floating_point()


@dataclass(frozen=True, kw_only=True)
class Multilabel(Task):
    """Any number of labels for each sample: binary cross-entropy, share of correct labels."""

    name = "multilabel"
    score = "label accuracy"
    targets: str = "numbers"
    kind: str | None = "multilabel"

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
        """The mean loss of a batch."""
        smoothed = targets * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else targets
        return F.binary_cross_entropy_with_logits(outputs, smoothed.to(outputs.dtype))

    def right(self, outputs: Tensor, targets: Tensor) -> Shaped[Tensor, "*T N"]:
        """The score of every sample."""
        return ((outputs > 0) == (targets > 0.5)).double().mean(-1)

    def decide(self, outputs: Tensor) -> Tensor:
        """The predictions that correspond to outputs."""
        return outputs > 0

    def shown(self, outputs: Tensor) -> Tensor:
        """Outputs in the form that metrics expect."""
        return outputs.sigmoid()

    def fits(self, targets: Tensor) -> bool:
        """Whether `targets` have the type and shape of this task."""
        return targets.dim() == 2 and targets.is_floating_point() and bool(((targets == 0) | (targets == 1)).all())


@dataclass(frozen=True, kw_only=True)
class Regress(Task):
    """Regression: squared error in units of the targets' standard deviation; the score is 1 − error² / variance, its mean is R².

    The output of the network is (target − mean) / std, for each output; metrics receive numbers in the unit of the targets.
    """

    name = "regress"
    score = "R²"
    targets: str = "numbers"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def _scaled(self, targets: Tensor) -> Tensor:
        return (targets - self._column(self.mean, 0.0, targets)) / self._column(self.std, 1.0, targets)

    def _column(self, values: Sequence[float] | None, default: float, like: Tensor) -> Tensor:
        numbers = torch.tensor([default] if values is None else list(values), dtype=like.dtype, device=like.device)
        return numbers.view(-1, *[1] * (like.dim() - 2))

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
        """The mean loss of a batch."""
        if outputs.shape != targets.shape:
            raise ValueError(f"outputs {list(outputs.shape)}, targets {list(targets.shape)}")
        return F.mse_loss(outputs, self._scaled(targets).to(outputs.dtype))

    def right(self, outputs: Tensor, targets: Tensor) -> Shaped[Tensor, "*T N"]:
        """The score of every sample."""
        error = (outputs.double() - self._scaled(targets.double())).square()
        return 1 - error.flatten(outputs.dim() - targets.dim() + 1).mean(-1)

    def prepared(self, targets: Any) -> "Task":
        """This task, with the mean absolute error as its metric if it has no metric."""
        super().prepared(targets)
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


TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (Classify, Multilabel, Regress, Dense)}
CLASSIFY = Classify()


def running_mean(outputs: Float[Tensor, "T N *K"], readout_from: int = 1) -> Float[Tensor, "T N *K"]:
    """Mean outputs from step `readout_from` up to each step; before `readout_from`, the outputs of the step itself."""
    early, counted = outputs[: readout_from - 1].double(), outputs[readout_from - 1 :].double().cumsum(0)
    steps = torch.arange(1, len(counted) + 1, device=outputs.device).view(-1, *[1] * (outputs.dim() - 1))
    return torch.cat([early, counted / steps])
