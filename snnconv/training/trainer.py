"""State of a training (network, optimizer, average and teacher), and one epoch."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from snnconv.nn.recompute import RecomputedOutputs
from snnconv.runtime import distributed, seed
from snnconv.runtime.compilation import compiled
from snnconv.runtime.environment import autocast
from snnconv.runtime.error_notes import noting_inputs
from snnconv.runtime.run import TrainingError
from snnconv.spiking.tasks import CLASSIFY, Task
from snnconv.training.distillation import LayerDistances, load_teacher
from snnconv.training.epochs import Totals, all_finite, set_lr
from snnconv.training.lookahead import Lookahead
from snnconv.training.optimizers import optimizer_of
from snnconv.training.quantized_weights import Weights
from snnconv.training.settings import Fit


class Trainer:
    """Trains a network in place, epoch by epoch, on the device of the batches."""

    def __init__(
        self, ann: nn.Module, settings: Fit, device: torch.device, weights: Weights, task: Task = CLASSIFY
    ) -> None:
        self.ann, self.settings, self.device, self.weights = ann.to(device), settings, device, weights
        self.task = task
        if settings.channels_last:
            ann.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = optimizer_of(ann, settings)
        self.average = (
            AveragedModel(ann, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True)
            if settings.ema
            else None
        )
        self.lookahead = Lookahead(ann, settings.lookahead) if settings.lookahead else None
        network: nn.Module = compiled(ann) if settings.compile else ann  # type: ignore[assignment]
        if distributed.world_size() > 1:
            network = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
        self.network = network
        self.teacher: Callable[[Tensor], Tensor] | None = None
        self.layers: LayerDistances | None = None
        self.nonzero: dict[str, Tensor] = {}  # masks of the weights, where zeros stay

    def keep_zeros(self) -> None:
        """With `keep_zeros`, weights that are 0 at present stay 0."""
        weights = {name: p for name, p in self.ann.named_parameters() if p.dim() > 1}
        self.nonzero = {name: p.detach() != 0 for name, p in weights.items()} if self.settings.keep_zeros else {}

    @property
    def evaluated(self) -> nn.Module:
        """The evaluated network: the average if there is one."""
        return self.average.module if self.average else self.ann

    def state(self) -> dict[str, Any]:
        """The complete state on which the next epoch depends."""
        average = self.average.state_dict() if self.average else None
        return {
            "ann": self.ann.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": average,
            "rng": seed.rng_state(),
            **({"lookahead": self.lookahead.average} if self.lookahead else {}),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore `state`; ValueError if it belongs to another network."""
        try:
            self.ann.load_state_dict(state["ann"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average:
                self.average.load_state_dict(state["ema"])
            if self.lookahead:
                self.lookahead.load(state["lookahead"])
            seed.set_rng_state(state["rng"])
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"belongs to another run ({error}); start a new run") from error

    def epoch(self, epoch: int, batches: Any, progress: Progress) -> tuple[float, float]:
        """One pass over the training images: mean loss and accuracy.  TrainingError if the loss is not finite."""
        settings, steps = self.settings, len(batches)
        batches.set_epoch(epoch)
        self.network.train()
        task = progress.add_task(f"epoch {epoch + 1}/{settings.epochs}", total=steps, numbers="")
        totals, shown = Totals(self.device), time.monotonic()
        for index, (images, labels) in enumerate(batches):
            set_lr(self.optimizer, settings.lr_at(epoch * steps + index, steps))
            self._step(images, labels, totals)
            if self.lookahead:
                self.lookahead.step(epoch * steps + index + 1, settings.epochs * steps)
            last = index + 1 == steps
            if last or self.device.type == "cpu" or time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                mean, right = totals.means()
                if not math.isfinite(mean):
                    raise _diverged("loss", epoch, f", by step {index + 1} of {steps}")
                progress.update(task, completed=index + 1, numbers=f"loss {mean:.3f}  {self.task.score} {right:.2%}")
        progress.remove_task(task)
        if not all_finite(self.ann):
            raise _diverged("network", epoch, ", after its last step")
        return totals.over_ranks()

    def _step(self, images: Tensor, labels: Tensor, totals: Totals) -> None:
        """One step of the optimizer."""
        settings = self.settings
        if settings.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        if settings.teacher is not None and self.teacher is None:
            self._load_teacher(images)
        self.optimizer.zero_grad(set_to_none=True)
        with self.weights.trained(self.ann):
            with (
                autocast(self.device, settings.precision),
                nullcontext() if settings.compile else RecomputedOutputs(),
                noting_inputs(self.ann, images, labels),
            ):
                logits = self.network(images)
                loss = self._loss(images, logits, labels)
            loss.backward()
        if settings.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.ann.parameters(), settings.clip_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            for name, mask in self.nonzero.items():
                self.ann.get_parameter(name).mul_(mask)
        if self.average:
            self.average.update_parameters(self.ann)
        totals.add(loss, self.task.right(logits.detach(), labels))

    def _loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of the task, combined with the distance from the teacher if there is one."""
        settings = self.settings
        loss = self.task.loss(logits, labels, settings.label_smoothing)
        if settings.teacher is None:
            return loss
        assert self.teacher is not None
        with torch.no_grad():
            target = self.teacher(images).float()
        loss = (1 - settings.distill) * loss + settings.distill * self.task.distance(
            logits.float(), target, settings.temperature
        )
        return loss if self.layers is None else loss + settings.distill_layers * self.layers()

    def _load_teacher(self, images: Tensor) -> None:
        """Load the teacher, and test it on `images`."""
        settings, mode = self.settings, self.ann.training
        assert settings.teacher is not None
        with torch.no_grad():
            shape = self.ann.eval()(images[:1]).shape[1:]
        self.ann.train(mode)
        network = load_teacher(settings.teacher, images, shape, channels_last=settings.channels_last)
        self.layers = LayerDistances(self.ann, network) if settings.distill_layers else None
        self.teacher = compiled(network) if settings.compile else network


def _diverged(what: str, epoch: int, where: str) -> TrainingError:
    saved = f"the best network of the first {epoch} epochs is saved" if epoch else "no network is saved yet"
    return TrainingError(f"the {what} is not finite in epoch {epoch + 1}{where}; {saved}. "
                         "Try a smaller fit.lr, fit.warmup_epochs=1 or fit.clip_grad_norm=1")  # fmt: skip
