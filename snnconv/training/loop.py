"""Training an ANN: the loop, its state, and the teacher."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from snnconv.data.batches import Batches
from snnconv.nn.recompute import RecomputedOutputs
from snnconv.runtime import distributed, seed
from snnconv.runtime.environment import autocast
from snnconv.runtime.run import Run, TrainingError
from snnconv.spiking.accuracy import accuracy
from snnconv.training.activation_noise import measure_noise
from snnconv.training.distillation import LayerDistances, distillation, load_teacher, require_teacher
from snnconv.training.quantized_weights import Weights
from snnconv.training.settings import (
    Fit,  # configurations name it snnconv.training.Fit, and recipes are told apart by them
)

log = logging.getLogger(__name__)


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
