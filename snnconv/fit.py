"""How to train an ANN: SGD with momentum and a cosine, and the paper's other habits as named settings (`conf/fit/`)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from snnconv.graph import is_activation

Rule = tuple[Callable[[Any], bool], str]  # does a value fit, and what would


def _number(fits: Callable[[float], bool], words: str) -> Rule:
    return lambda value: type(value) in (int, float) and math.isfinite(value) and fits(value), words


def _one_of(*options: Any) -> Rule:
    return lambda value: value in options, " or ".join(map(str, options))


def _or_null(rule: Rule) -> Rule:
    return lambda value: value is None or rule[0](value), f"null or {rule[1]}"


_COUNT: Rule = (lambda value: type(value) is int and value >= 1, "a whole number of at least 1")
_WHOLE: Rule = (lambda value: type(value) is int and value >= 0, "a whole number of at least 0")
_POSITIVE = _number(lambda value: value > 0, "a positive number")
_NOT_NEGATIVE = _number(lambda value: value >= 0, "a number of at least 0")
_FRACTION = _number(lambda value: 0 <= value < 1, "a number of at least 0 and below 1")
_SHARE = _number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
_SWITCH: Rule = (lambda value: type(value) is bool, "true or false")
_RULES = {
    "epochs": _WHOLE, "batch_size": _COUNT, "lr": _POSITIVE, "momentum": _FRACTION, "nesterov": _SWITCH,
    "weight_decay": _NOT_NEGATIVE, "threshold_weight_decay": _or_null(_NOT_NEGATIVE),
    "norm_weight_decay": _or_null(_NOT_NEGATIVE), "schedule": _one_of("cosine", "constant"),
    "schedule_every": _one_of("step", "epoch"), "warmup_epochs": _NOT_NEGATIVE, "label_smoothing": _FRACTION,
    "clip_grad_norm": _or_null(_POSITIVE), "ema": _or_null(_FRACTION), "channels_last": _SWITCH,
    "select": _one_of("best", "last", "test"), "save_every": _COUNT,
    "keep_zeros": _SWITCH, "distill_layers": _NOT_NEGATIVE,
    "teacher": _or_null((lambda value: isinstance(value, str), "a run folder")), "distill": _SHARE, "temperature": _POSITIVE,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How to train; ValueError for values that make no sense.  Weight decays default to `weight_decay`, as in the papers."""

    epochs: int  # 0: the given network as it is
    lr: float
    batch_size: int
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    threshold_weight_decay: float | None = None  # on θ
    norm_weight_decay: float | None = None  # on batch norms and biases
    schedule: str = "cosine"  # cosine | constant
    schedule_every: str = "step"  # step | epoch
    warmup_epochs: float = 0.0  # linear, from 0
    label_smoothing: float = 0.0
    clip_grad_norm: float | None = None
    ema: float | None = None  # decay per step of the averaged weights that are evaluated and kept
    channels_last: bool = False
    select: str = "best"  # epoch that is kept: best on valid | last | test: best on the test set
    teacher: str | None = None  # a run folder: its network's outputs are learned as well (distillation)
    distill: float = 1.0  # share of the loss that is distance from the teacher; the rest is cross-entropy
    temperature: float = 2.0  # of both outputs in that distance
    distill_layers: float = 0.0  # weight of a further loss: the distance from the teacher's activations, layer by layer
    keep_zeros: bool = False  # weights that are 0 stay 0
    save_every: int = 1  # epochs between the states from which a run can be resumed

    def __post_init__(self) -> None:
        for name, (fits, words) in _RULES.items():
            if not fits(getattr(self, name)):
                raise ValueError(f"fit.{name}={getattr(self, name)!r}: {words}")
        if self.warmup_epochs > self.epochs > 0:
            raise ValueError(f"fit.warmup_epochs={self.warmup_epochs}: at most fit.epochs={self.epochs}")
        if self.distill_layers and self.teacher is None:
            raise ValueError("fit.distill_layers: needs the network that teaches, fit.teacher=runs/…")
        if self.nesterov and not self.momentum:
            raise ValueError("fit.nesterov=true: needs fit.momentum above 0")

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of one step, counted from 0 over the whole training."""
        if step < self.warmup_epochs * steps_per_epoch:
            return self.lr * (step + 1) / (self.warmup_epochs * steps_per_epoch)
        if self.schedule == "constant":
            return self.lr
        progress = (
            step // steps_per_epoch / self.epochs
            if self.schedule_every == "epoch"
            else step / (self.epochs * steps_per_epoch)
        )
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))

    def optimizer(self, ann: nn.Module) -> torch.optim.SGD:
        """SGD over three groups: weights, thresholds, and norms with biases; on CUDA one kernel a group."""
        thresholds = {id(p) for m in ann.modules() if is_activation(m) for p in m.parameters()}
        groups: dict[str, list[nn.Parameter]] = {"weight": [], "threshold": [], "norm": []}
        for parameter in ann.parameters():
            group = "threshold" if id(parameter) in thresholds else "norm" if parameter.dim() < 2 else "weight"
            groups[group].append(parameter)
        decays = {"weight": None, "threshold": self.threshold_weight_decay, "norm": self.norm_weight_decay}
        settings = [
            {"params": parameters, "weight_decay": self.weight_decay if decays[name] is None else decays[name]}
            for name, parameters in groups.items()
            if parameters
        ]
        fused = next(ann.parameters()).is_cuda or None  # None: torch chooses
        return torch.optim.SGD(settings, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=fused)
