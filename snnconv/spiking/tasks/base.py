"""Base class of the tasks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from snnconv.runtime.error_notes import noting_inputs
from snnconv.spiking.metrics import Measure, update
from snnconv.spiking.tasks.readout import READOUTS

TASKS: dict[str, type["Task"]] = {}  # every task by its name


@dataclass(frozen=True, kw_only=True)
class Task:
    """Base class of the tasks; ValueError for values out of range.

    The score of a sample is a fraction; higher is better.  Tables show its mean as the "accuracy", and `metrics` next to it.
    readout  output of a spiking network at t: "mean", the mean over all steps up to t; "membrane", the potential of a leaky
             integrator with a time constant of 4 steps, which forgets early steps; "last", the output of step t only.
    """

    name: ClassVar[str]
    score: ClassVar[str]  # name of the mean score
    expects: ClassVar[str]  # its targets in words
    readout: str = "mean"
    metrics: Mapping[str, Measure] = field(default_factory=dict)
    targets: str = "classes"  # type of the targets in files: classes | numbers
    kind: str | None = None  # kind of classification in torchmetrics

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        TASKS[cls.name] = cls

    def __post_init__(self) -> None:
        if self.readout not in READOUTS:
            *others, last = READOUTS
            raise ValueError(f"task.readout={self.readout!r}: must be {', '.join(others)} or {last}")

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
        """The mean loss of a batch."""
        raise NotImplementedError

    def distance(self, outputs: Tensor, taught: Tensor, temperature: float = 1.0) -> Float[Tensor, ""]:
        """The mean distance of outputs [*T, N, …] from those of a teacher, the loss of distillation."""
        raise NotImplementedError

    def right(self, outputs: Tensor, targets: Tensor) -> Shaped[Tensor, "*T N"]:
        """The score of every sample, for `outputs` [N, …], or [T, N, …] at several T."""
        raise NotImplementedError

    def decide(self, outputs: Tensor) -> Tensor:
        """The predictions that correspond to outputs."""
        raise NotImplementedError

    def confidence(self, outputs: Tensor) -> Float[Tensor, "*T N"]:
        """The confidence in the prediction of every sample, at most 1, for `outputs` [N, …], or [T, N, …]."""
        raise NotImplementedError

    def margin(self, outputs: Tensor) -> Float[Tensor, "*T N"]:
        """The distance of the outputs of every sample from those with another prediction, for `outputs` [N, …], or [T, N, …]."""
        raise NotImplementedError

    def require_confidence(self, exit: str = "confidence") -> None:
        """ValueError for a task whose outputs have no confidence; `exit` is the rule that needs it."""
        if type(self).confidence is Task.confidence:
            raise ValueError(
                f"simulate.exit={exit}: the outputs of task={self.name} have no confidence; use simulate.exit=none"
            )

    def shown(self, outputs: Tensor) -> Tensor:
        """Outputs [N, …] in the form that metrics expect: probabilities, or numbers in the unit of the targets."""
        raise NotImplementedError

    def fits(self, targets: Tensor) -> bool:
        """Whether `targets` [N, …] have the type and shape of this task."""
        raise NotImplementedError

    def prepared(self, targets: Any) -> "Task":
        """This task for a data set with these training targets; ValueError if they do not fit the task."""
        if isinstance(targets, Tensor):
            self.require_targets(targets)
        return self

    def require_targets(self, targets: Tensor) -> None:
        """Raise a ValueError unless `targets` [N, …] fit this task."""
        if self.fits(targets):
            return
        raise ValueError(f"task={self.name}: targets are {targets.dtype} {list(targets.shape)}, expected {self.expects}; "
                         f"{'; '.join(self._remedies(targets)) or 'no task has such targets'}")  # fmt: skip

    def _remedies(self, targets: Tensor) -> list[str]:
        """Other tasks and other forms of `targets` that fit."""
        others = [name for name, kind in TASKS.items() if kind().fits(targets)]
        remedies = [f"they fit task={' or '.join(others)}"] if others else []
        if not targets.is_floating_point():
            return remedies
        if targets.dim() == 1:
            remedies.append("numbers are given as [N, 1]")
        if self.targets == "classes" and bool((targets == targets.round()).all()):
            one_hot = targets.dim() == 2 and targets.shape[1] > 1 and bool((targets.sum(1) == 1).all())
            remedies.append(
                "one-hot rows are classes by y.argmax(1)" if one_hot else "classes are integers, y.astype(int)"
            )
        return remedies

    @torch.no_grad()
    def try_out(self, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Raise a ValueError unless outputs of `network` fit targets and metrics, on a few samples; its mode is restored."""
        was_training = network.training
        for inputs, targets in islice(batches, 1):
            with noting_inputs(network, inputs, targets):
                outputs = network.eval().to(inputs.device)(inputs[:2])
            self.require_targets(targets)
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
        if self.kind == "multiclass" and outputs.dim() > 1 and not targets.is_floating_point():
            other = int(((targets < 0) | (targets >= outputs.shape[1])).sum())
            if other:
                raise ValueError(f"task={self.name}: {other} of {targets.numel()} targets are no class of the network, which has "
                                 f"{outputs.shape[1]} outputs: targets are integers from 0 to {outputs.shape[1] - 1}")  # fmt: skip
        try:
            fits = self.right(outputs, targets).shape == (len(targets),)
            self.loss(outputs, targets)
        except (RuntimeError, IndexError, ValueError):
            fits = False
        if fits:
            return
        raise ValueError(
            f"task={self.name}: the network returns {list(outputs.shape)}, the targets are {list(targets.shape)}; choose another "
            "model (task=dense: model=unet), or another task"
        )

    def require_scored(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise a ValueError unless `targets` fit the task and the outputs: else tensors could be broadcast to a wrong score."""
        self.require_targets(targets)
        self.require_outputs(outputs, targets)

    def read(self, outputs: Float[Tensor, "T N *K"], readout_from: int = 1) -> Float[Tensor, "T N *K"]:
        """The readout at each t, from the outputs of every step."""
        return READOUTS[self.readout](outputs, readout_from)
