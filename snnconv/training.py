"""Training: SGD with momentum and a cosine, and the paper's other habits as named settings (`conf/fit/`)."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from snnconv.data.splits import Batches
from snnconv.distillation import LayerDistances, distillation, load_teacher, require_teacher
from snnconv.evaluation import accuracy
from snnconv.graph import is_activation
from snnconv.kernels import RecomputedOutputs
from snnconv.noise import measure_noise
from snnconv.quantized_weights import Weights
from snnconv.runtime import distributed, seed
from snnconv.runtime.environment import autocast
from snnconv.runtime.run import Run, TrainingError

log = logging.getLogger(__name__)


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


class _Training:
    """The moving parts of a fit: network, optimizer, average, and their state."""

    def __init__(self, ann: nn.Module, settings: Fit, run: Run, weights: Weights) -> None:
        self.ann, self.settings, self.run, self.weights = ann.to(run.device), settings, run, weights
        if settings.channels_last:
            ann.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = settings.optimizer(ann)
        self.average = (
            AveragedModel(ann, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True)
            if settings.ema
            else None
        )
        network: nn.Module = torch.compile(ann) if run.cfg.compile else ann  # type: ignore[assignment]
        if distributed.world_size() > 1:
            network = DistributedDataParallel(network, device_ids=[run.device] if run.device.type == "cuda" else None)
        self.network = network
        self.teacher: Callable[[Tensor], Tensor] | None = None
        self.layers: LayerDistances | None = None
        self.kept: dict[str, Tensor] = {}  # where weights are not 0

    def keep_zeros(self) -> None:
        """Remember which weights are 0, so that they stay so."""
        weights = {name: p for name, p in self.ann.named_parameters() if p.dim() > 1}
        self.kept = {name: p.detach() != 0 for name, p in weights.items()} if self.settings.keep_zeros else {}

    @property
    def evaluated(self) -> nn.Module:
        """The network whose accuracy counts: the average if there is one."""
        return self.average.module if self.average else self.ann

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on."""
        average = self.average.state_dict() if self.average else None
        return {
            "ann": self.ann.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": average,
            "rng": seed.rng_state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Undo `state`; ValueError if it is not this network's."""
        try:
            self.ann.load_state_dict(state["ann"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average:
                self.average.load_state_dict(state["ema"])
            seed.set_rng_state(state["rng"])
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"{self.run.folder / 'last.ckpt'}: belongs to another run ({error}); start a new run"
            ) from error

    def epoch(self, epoch: int, batches: Batches, progress: Progress) -> tuple[float, float]:
        """One pass over the training images: mean loss and accuracy.  TrainingError where the loss is not finite."""
        settings, device = self.settings, self.run.device
        batches.set_epoch(epoch)
        self.network.train()
        task = progress.add_task(f"epoch {epoch + 1}/{settings.epochs}", total=len(batches), numbers="")
        totals = torch.zeros(3, dtype=torch.float64, device=device)  # loss, correct, images
        shown = time.monotonic()
        for index, (images, labels) in enumerate(batches):
            for group in self.optimizer.param_groups:
                group["lr"] = settings.lr_at(epoch * len(batches) + index, len(batches))
            if settings.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            if settings.teacher is not None and self.teacher is None:
                self._meet_teacher(images)
            self.optimizer.zero_grad(set_to_none=True)
            with self.weights.trained(self.ann):
                with (
                    autocast(device, self.run.cfg.precision),
                    nullcontext() if self.run.cfg.compile else RecomputedOutputs(),
                ):
                    logits = self.network(images)
                    loss = self._loss(images, logits, labels)
                loss.backward()
            if settings.clip_grad_norm is not None:
                nn.utils.clip_grad_norm_(self.ann.parameters(), settings.clip_grad_norm)
            self.optimizer.step()
            with torch.no_grad():
                for name, kept in self.kept.items():
                    self.ann.get_parameter(name).mul_(kept)
            if self.average:
                self.average.update_parameters(self.ann)
            totals += _numbers(loss, logits, labels)
            last = index + 1 == len(batches)
            if last or device.type == "cpu" or time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                mean, right = (totals[:2] / totals[2]).tolist()
                if not math.isfinite(mean):
                    raise _diverged("loss", epoch, f", by step {index + 1} of {len(batches)}")
                progress.update(task, completed=index + 1, numbers=f"loss {mean:.3f}  accuracy {right:.2%}")
        progress.remove_task(task)
        if not all(tensor.isfinite().all() for tensor in self.ann.state_dict().values()):
            raise _diverged("network", epoch, ", after its last step")
        loss_sum, correct, images_seen = distributed.sum_over_ranks(totals).tolist()
        return loss_sum / images_seen, correct / images_seen

    def _loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, shared with the distance from the teacher if there is one."""
        settings = self.settings
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
        if settings.teacher is None:
            return loss
        assert self.teacher is not None
        with torch.no_grad():
            wanted = self.teacher(images).float()
        loss = (1 - settings.distill) * loss + settings.distill * distillation(
            logits.float(), wanted, settings.temperature
        )
        return loss if self.layers is None else loss + settings.distill_layers * self.layers()

    def _meet_teacher(self, images: Tensor) -> None:
        """Load the teacher, once there are images to try it on."""
        settings, cfg = self.settings, self.run.cfg
        assert settings.teacher is not None
        options = {"trust": cfg.trust, "channels_last": settings.channels_last}
        network = load_teacher(settings.teacher, images, cfg.data.num_classes, **options)
        self.layers = LayerDistances(self.ann, network) if settings.distill_layers else None
        self.teacher = torch.compile(network) if cfg.compile else network


def _diverged(what: str, epoch: int, where: str) -> TrainingError:
    kept = f"the best network of the {epoch} before is kept" if epoch else "there is no network to keep yet"
    return TrainingError(f"the {what} is not finite in epoch {epoch + 1}{where}; {kept}. "
                         "Try a smaller fit.lr, fit.warmup_epochs=1 or fit.clip_grad_norm=1")  # fmt: skip


def _numbers(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    loss = loss.detach().double()
    count = torch.full_like(loss, len(labels))  # filled on the device: a copy to it would make every step wait
    return torch.stack([loss * count, (logits.detach().argmax(1) == labels).sum().double(), count])


def fit(
    ann: nn.Module, train: Batches, valid: Batches, settings: Fit, run: Run, weights: Weights | None = None
) -> None:
    """Train `ann` in place; it ends with the weights of the best epoch on `valid` (or the last, `select="last"`).

    Where `weights` are quantized in training, so are those that are evaluated and kept.
    With `select="test"` the caller gives the test images as `valid` (`Splits.selecting`), and the numbers are named so.
    With `epochs=0` it stays as it was given, and is saved; ValueError if it was given no weights.
    Goes on from the run's last saved epoch if there is one: on a CPU, to the same numbers as without the interruption.
    """
    if settings.teacher is not None:
        require_teacher(settings.teacher)  # before there is a state from which to resume with the same mistake
        if settings.distill_layers and run.cfg.compile:
            raise ValueError("fit.distill_layers looks into layers, which compiled code does not show; compile=false")
    weights = weights or Weights()
    training, first = _Training(ann, settings, run, weights), 0
    state = run.load_state()
    if not settings.epochs and state is None:
        if not run.cfg.model.get("weights"):
            raise ValueError("fit.epochs=0 keeps the network as it was given, but there are no weights in it; name them "
                             "with model.weights=…, or train with fit.epochs of at least 1")  # fmt: skip
        run.save_ann(ann, {"epoch": 0})
    if state is not None:
        training.load(state["training"])
        first, run.seconds["train"] = state["epoch"], state["seconds"]
        log.info("Going on after epoch %d of %d", first, settings.epochs)
    else:
        run.save_state({"epoch": 0, "seconds": 0.0, "training": training.state()})
    training.keep_zeros()
    trained = settings.epochs and weights.train and weights.bits is not None
    quantized = {"weights": {"bits": weights.bits, "per_channel": weights.per_channel}} if trained else {}
    best, score = run.best(), "test_accuracy" if settings.select == "test" else "valid_accuracy"
    if settings.select == "test":
        log.warning("fit.select=test: the epoch is chosen on the test set, so the accuracy reported on it is flattered")
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
    ]
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), transient=True, disable=not distributed.is_main()
    ) as progress:
        for epoch in range(first, settings.epochs):
            start = time.perf_counter()
            with weights.trained(ann):
                measure_noise(ann, valid)
            loss, train_accuracy = training.epoch(epoch, train, progress)
            distributed.share_buffers(training.evaluated)
            with weights.trained(training.evaluated):
                scores = {score: accuracy(training.evaluated, valid)} if valid.count else {}
                run.seconds["train"] += time.perf_counter() - start
                if settings.select == "last" or best is None or scores[score] > best[score]:
                    best = {"epoch": epoch + 1, **scores}
                    run.save_ann(training.evaluated, {**best, **quantized})
            run.log({
                "epoch": epoch, "loss": loss, "train_accuracy": train_accuracy, **scores,
                "lr": training.optimizer.param_groups[0]["lr"], "seconds": round(run.seconds["train"], 3),
            })  # fmt: skip
            if (epoch + 1) % settings.save_every == 0 or epoch + 1 == settings.epochs:
                run.save_state({"epoch": epoch + 1, "seconds": run.seconds["train"], "training": training.state()})
            log.info(
                "epoch %d/%d  loss %.4f  train %.2f %%  %s%.0f s", epoch + 1, settings.epochs, loss, 100 * train_accuracy,
                "".join(f"{name.split('_')[0]} {100 * value:.2f} %  " for name, value in scores.items()),
                run.seconds["train"],
            )  # fmt: skip
    if training.layers is not None:
        training.layers.close()
    run.restore_best(ann)
    ann.eval()
