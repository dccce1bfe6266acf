"""Training a spiking network through time, with surrogate gradients: settings, loss, loop."""

import inspect
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Shaped
from rich.progress import track
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from snnconv.nn.graph.split import split
from snnconv.nn.recompute import RecomputedOutputs
from snnconv.runtime import console, distributed
from snnconv.runtime.environment import autocast
from snnconv.runtime.run import TrainingError
from snnconv.runtime.settings import COUNT, FRACTION, NOT_NEGATIVE, POSITIVE, SWITCH, number, one_of, require
from snnconv.spiking.encoders.base import InputEncoder
from snnconv.spiking.encoders.direct import Direct
from snnconv.spiking.neurons.surrogate import SurrogateIntegrateFire, surrogate_slope
from snnconv.spiking.operators.base import set_timesteps
from snnconv.spiking.tasks import CLASSIFY, Task
from snnconv.training.epochs import Totals, all_finite, half_cosine, set_lr

log = logging.getLogger(__name__)
DIVERGED = "method=finetune: the {} is not finite in epoch {}; try a smaller method.lr"
WARMUP = 0.02  # share of the steps in which the learning rate increases to its full value


_RULES = {
    "epochs": COUNT, "lr": POSITIVE, "loss": one_of("last", "every"), "thresholds": one_of("free", "frozen"),
    "timesteps": (lambda value: bool(value) and all(map(COUNT[0], value if isinstance(value, Sequence) else [value])),
                  "integers of at least 1"),
    "sharpness": POSITIVE, "detach_reset": SWITCH, "momentum": FRACTION, "weight_decay": NOT_NEGATIVE,
    "distill": number(lambda value: 0 <= value <= 1, "0 (labels) to 1 (the teacher's outputs)"), "temperature": POSITIVE,
    "precision": one_of("float32", "tf32", "bf16"), "compile": SWITCH,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of training through time; ValueError for values out of range."""

    timesteps: int | Sequence[int]  # T; of several the largest
    epochs: int = 5
    lr: float = 2e-4  # the largest, of AdamW
    loss: str = "last"  # last: of the mean output over all T | every: of the means up to each t, for all t ≤ T
    thresholds: str = "free"  # free: θ is trained as well | frozen
    surrogate: str = "rect"  # a surrogate gradient of SpikingJelly
    sharpness: float = 1.0  # its alpha, for the distance to the threshold in units of θ
    detach_reset: bool = False  # no gradient through the reset
    momentum: float = 0.9  # β₁ of Adam
    weight_decay: float = 0.0  # on weights, not on biases or θ; decoupled
    distill: float = 1.0  # share of the loss that asks for the teacher's output instead of the label
    temperature: float = 2.0  # of both outputs in that share
    precision: str = "float32"  # bf16: weight layers in bfloat16
    compile: bool = False  # torch.compile

    def __post_init__(self) -> None:
        require(self, _RULES, "method")
        surrogate_slope(self.surrogate)
        steps = self.timesteps if isinstance(self.timesteps, Sequence) else [self.timesteps]
        object.__setattr__(self, "timesteps", max(steps))

    def as_dict(self) -> dict[str, Any]:
        """The settings that identify a training: all except `compile`, which changes only rounding, and a precision of float32."""
        return {name: value for name, value in asdict(self).items()
                if name != "compile" and (name, value) not in (("precision", "float32"), ("precision", "tf32"))}  # fmt: skip


def defaults() -> dict[str, Any]:
    """Every setting with its default, `inspect.Parameter.empty` where it has none."""
    return {f.name: inspect.Parameter.empty if f.default is MISSING else f.default for f in fields(Settings)}


class Unrolled(nn.Module):
    """Outputs of every step, [T, N, …], of a network of trainable neurons.

    Layers before the first neuron are computed once, unless an `encoder` makes the inputs of every step.  Each call starts from
    the initial state, and leaves no state behind: gradients flow through the T steps of one batch only.
    """

    def __init__(self, network: nn.Module, timesteps: int, encoder: InputEncoder | None = None) -> None:
        super().__init__()
        self.before, self.after = split(network, SurrogateIntegrateFire)
        self.timesteps, self.encoder = timesteps, encoder or Direct()

    def forward(self, images: Float[Tensor, "N *image"]) -> Float[Tensor, "T N *K"]:
        """Outputs of all steps, computed layer by layer."""
        if isinstance(self.encoder, Direct):
            constants = [
                torch.cat([constant] * self.timesteps) for constant in self.before(images)
            ]  # keeps channels_last
        else:
            constants = self.before(self.encoder.encode(images, 0, self.timesteps).flatten(0, 1))
        set_timesteps(self.after, self.timesteps)
        outputs = self.after(*constants).unflatten(0, (self.timesteps, -1))
        set_timesteps(self.after, 1)  # the operators' states belong to the graph of this batch
        return outputs


def loss(
    outputs: Float[Tensor, "T N *K"],
    targets: Shaped[Tensor, "N *_"],
    taught: Float[Tensor, "N *K"] | None,
    how: Settings,
    task: Task = CLASSIFY,
) -> Float[Tensor, ""]:
    """(1 − d)·loss of the task + d·distance from the teacher, of the mean output over T steps, or averaged over those up to t."""
    steps = torch.arange(1, len(outputs) + 1, device=outputs.device).view(-1, *[1] * (outputs.dim() - 1))
    means = outputs.cumsum(0) / steps if how.loss == "every" else outputs.mean(0, keepdim=True)
    total = torch.zeros((), device=outputs.device)
    if how.distill < 1 or taught is None:
        total = (1 - how.distill) * task.loss(means.flatten(0, 1), torch.cat([targets] * len(means)))
    if taught is not None and how.distill:
        total = total + how.distill * task.distance(means, taught.expand_as(means), how.temperature)
    return total


def lr_at(step: int, steps: int, lr: float) -> float:
    """Learning rate: half a cosine from `lr` to 0, after a short linear warm-up."""
    return lr * min(1.0, (step + 1) / (WARMUP * steps + 1)) * half_cosine(math.pi * step / steps)


def train_through_time(
    network: nn.Module,
    teacher: nn.Module | None,
    train: Any,
    how: Settings,
    after_epoch: Callable[[int], None] = lambda done: None,
    *,
    task: Task = CLASSIFY,
    encoder: InputEncoder | None = None,
) -> None:
    """Train `network`, which has `SurrogateIntegrateFire` neurons, in place; TrainingError if loss or weights are not finite.

    `task` gives the loss and the score, `encoder` the inputs of every step.
    """
    device, start = train.device, time.perf_counter()
    for part in [network] if teacher is None else [network, teacher]:
        part.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model: nn.Module = Unrolled(network, how.timesteps, encoder)  # type: ignore[arg-type]
    model = torch.compile(model) if how.compile else model  # type: ignore[assignment]
    if distributed.world_size() > 1:
        model = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    optimizer = _optimizer(network, how)
    dtype, steps, totals = next(network.parameters()).dtype, how.epochs * len(train), Totals(device)
    for step, (images, labels) in enumerate(_epochs(train, how.epochs)):
        images = images.to(dtype)
        images = images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
        with torch.no_grad(), autocast(device, how.precision):
            taught = teacher(images).float() if teacher is not None else None
        with autocast(device, how.precision), nullcontext() if how.compile else RecomputedOutputs():
            logits = model(images)
        value = loss(logits.float(), labels, taught, how, task)
        set_lr(optimizer, lr_at(step, steps, how.lr))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        totals.add(value, task.right(logits.detach().mean(0), labels))
        if (step + 1) % len(train) == 0:
            epoch = (step + 1) // len(train)
            _report(totals, epoch, how, time.perf_counter() - start)
            if not all_finite(network):
                raise TrainingError(DIVERGED.format("network", epoch))
            totals = Totals(device)
            after_epoch(epoch)


def _optimizer(network: nn.Module, how: Settings) -> torch.optim.AdamW:
    """AdamW, because layers and thresholds have very different scales after folding of batch norms.  No decay of biases and θ."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if (p.dim() > 1) == weights], "weight_decay": how.weight_decay * weights}
        for weights in (True, False)
    ]
    return torch.optim.AdamW(groups, lr=how.lr, betas=(how.momentum, 0.999), fused=trained[0].is_cuda or None)


def _epochs(train: Any, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of all epochs, under one progress bar."""

    def passes() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(epochs):
            train.set_epoch(epoch)
            yield from train

    return track(passes(), "finetune", epochs * len(train), transient=True, console=console.for_progress())  # type: ignore[return-value]


def _report(totals: Totals, epoch: int, how: Settings, seconds: float) -> None:
    """Log one epoch; TrainingError if its loss is not finite."""
    mean_loss, correct = totals.over_ranks()
    if not math.isfinite(mean_loss):
        raise TrainingError(DIVERGED.format("loss", epoch))
    log.info("finetune %d/%d  T=%s  loss %.4f  train %.2f %%  %.0f s", epoch, how.epochs, how.timesteps, mean_loss,
             100 * correct, seconds)  # fmt: skip
