"""Settings of the training of an ANN (`conf/fit/`): optimizer, schedule, and options used in papers."""

import math
from dataclasses import dataclass

from snnconv.runtime.environment import PRECISIONS
from snnconv.runtime.settings import (
    COUNT,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SWITCH,
    WHOLE,
    one_of,
    or_null,
    require,
)
from snnconv.training.epochs import half_cosine

_RULES = {
    "epochs": WHOLE, "batch_size": COUNT, "lr": POSITIVE,
    "optimizer": one_of("sgd", "adamw", "muon"), "momentum": FRACTION, "nesterov": SWITCH,
    "weight_decay": NOT_NEGATIVE, "threshold_weight_decay": or_null(NOT_NEGATIVE),
    "norm_weight_decay": or_null(NOT_NEGATIVE), "schedule": one_of("cosine", "linear", "constant"),
    "schedule_every": one_of("step", "epoch"), "warmup_epochs": NOT_NEGATIVE, "label_smoothing": FRACTION,
    "clip_grad_norm": or_null(POSITIVE), "ema": or_null(FRACTION), "channels_last": SWITCH,
    "select": one_of("best", "last", "test"), "save_every": COUNT,
    "keep_zeros": SWITCH, "distill_layers": NOT_NEGATIVE, "compile": SWITCH, "precision": one_of(*PRECISIONS),
    "tune": one_of("auto", "none"), "tune_precision": SWITCH,
    "dirac_init": SWITCH, "norm_bias_lr": or_null(POSITIVE), "lookahead": or_null(COUNT),
    "teacher": or_null((lambda value: isinstance(value, str), "a run folder")), "distill": SHARE, "temperature": POSITIVE,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Settings of a training; ValueError for values out of range.  Weight decays default to `weight_decay`, as in the papers."""

    epochs: int  # 0: the given network as it is
    lr: float
    batch_size: int = 64  # of the data (conf/data/); `Batches` and loaders have their own
    optimizer: str = "sgd"  # sgd | adamw | muon: for weights between the first and the last layer, AdamW for the rest
    momentum: float = 0.9  # of SGD and Muon; the first beta of AdamW
    nesterov: bool = False
    weight_decay: float = 5e-4
    threshold_weight_decay: float | None = None  # on θ
    norm_weight_decay: float | None = None  # on batch norms and biases
    schedule: str = "cosine"  # cosine | linear: down to 0 from the end of the warm-up | constant
    schedule_every: str = "step"  # step | epoch
    warmup_epochs: float = 0.0  # linear, from 0
    label_smoothing: float = 0.0
    clip_grad_norm: float | None = None
    ema: float | None = None  # decay per step of the averaged weights that are evaluated and kept
    channels_last: bool = False
    select: str = "best"  # epoch whose weights are used: best on valid | last | test: best on the test set
    teacher: str | None = None  # a run folder, whose network's outputs are learned as well (distillation)
    distill: float = 1.0  # share of the loss that is distance from the teacher; the rest is cross-entropy
    temperature: float = 2.0  # of both outputs in that distance
    distill_layers: float = 0.0  # weight of a further loss: the distance from the teacher's activations, layer by layer
    keep_zeros: bool = False  # weights that are 0 stay 0
    save_every: int = 1  # epochs between the states from which a run can be resumed
    compile: bool = False  # torch.compile
    precision: str = "float32"  # float32 | tf32 | bf16: weight layers in bfloat16
    dirac_init: bool = False  # convolutions start by passing their input on (initialization.py)
    norm_bias_lr: float | None = None  # learning rate of the biases of batch norms, as a multiple of `lr`
    lookahead: int | None = None  # steps between two pulls of the weights to their moving average (lookahead.py)
    tune: str = "auto"  # auto: on a CPU a long training runs as a short measurement finds fastest (tune.py) | none
    tune_precision: bool = False  # may it choose bf16?

    def __post_init__(self) -> None:
        require(self, _RULES, "fit")
        if self.warmup_epochs > self.epochs > 0:
            raise ValueError(f"fit.warmup_epochs={self.warmup_epochs}: must be at most fit.epochs={self.epochs}")
        if self.distill_layers and self.teacher is None:
            raise ValueError("fit.distill_layers: needs a teacher, fit.teacher=runs/…")
        if self.nesterov and self.optimizer == "adamw":
            raise ValueError("fit.nesterov=true: fit.optimizer=adamw has no Nesterov momentum; sgd and muon have")
        if self.nesterov and not self.momentum:
            raise ValueError("fit.nesterov=true: needs fit.momentum above 0")

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of one step, counted from 0 over the whole training."""
        if step < self.warmup_epochs * steps_per_epoch:
            return self.lr * (step + 1) / (self.warmup_epochs * steps_per_epoch)
        if self.schedule == "constant":
            return self.lr
        done = (
            step // steps_per_epoch / self.epochs
            if self.schedule_every == "epoch"
            else step / (self.epochs * steps_per_epoch)
        )
        if self.schedule == "linear":
            return self.lr * min((1 - done) / (1 - self.warmup_epochs / self.epochs), 1.0)
        return self.lr * half_cosine(math.pi * done)
