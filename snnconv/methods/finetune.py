"""Training after conversion: the weights of a spiking network, through time, with surrogate gradients.

The start from a converted network is that of hybrid training (Rathi et al., ICLR 2020); the ANN that was converted teaches, or a
better one (Hinton et al., 2015, distillation).  The neurons stay plain integrate-and-fire, so nothing is paid at inference.
"""

import functools
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from jaxtyping import Float, Int64
from rich.progress import track
from safetensors.torch import save as as_bytes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from snnconv import conversion
from snnconv.data.splits import Batches
from snnconv.distillation import distillation, load_teacher, require_teacher
from snnconv.folding import fold_batchnorm
from snnconv.kernels import RecomputedOutputs
from snnconv.neurons.integrate_fire import IntegrateFire
from snnconv.neurons.surrogate import SurrogateIntegrateFire, surrogate_slope
from snnconv.runtime import checkpoint, distributed, files
from snnconv.runtime.environment import autocast
from snnconv.runtime.run import TrainingError
from snnconv.spiking import OverTime, SpikingModel
from snnconv.surgery import set_submodule, split

log = logging.getLogger(__name__)
WARMUP = 0.02  # share of the steps in which the learning rate rises to its full value


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train; ValueError for values that make no sense."""

    epochs: int
    lr: float
    timesteps: int | Sequence[int]  # T; of several the largest
    loss: str = (
        "last"  # last: of the mean output over all T | every: of the means up to each t, so that all t ≤ T are good
    )
    thresholds: str = "free"  # free: θ is trained as well | frozen
    surrogate: str = "rect"  # a surrogate gradient of SpikingJelly
    sharpness: float = 1.0  # its alpha, for the distance to the threshold in units of θ
    detach_reset: bool = False  # no gradient through the reset
    momentum: float = 0.9  # β₁ of Adam
    weight_decay: float = 0.0  # on weights, not on biases or θ; decoupled
    distill: float = (
        1.0  # share of the loss that asks for the output of the ANN, or of another teacher, instead of the label
    )
    temperature: float = 2.0  # of both outputs in that share
    precision: str = "float32"  # bf16: weight layers in bfloat16
    compile: bool = False  # torch.compile

    def __post_init__(self) -> None:
        steps = list(self.timesteps) if isinstance(self.timesteps, Sequence) else [self.timesteps]
        fits = {
            "epochs": (type(self.epochs) is int and self.epochs >= 1, "a whole number of at least 1"),
            "lr": (self.lr > 0, "above 0"),
            "timesteps": (all(type(t) is int and t >= 1 for t in steps) and steps, "whole numbers of at least 1"),
            "loss": (self.loss in ("last", "every"), "last or every"),
            "thresholds": (self.thresholds in ("free", "frozen"), "free or frozen"),
            "sharpness": (self.sharpness > 0, "above 0"),
            "momentum": (0 <= self.momentum < 1, "at least 0 and below 1"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "distill": (0 <= self.distill <= 1, "0 (labels) to 1 (the ANN's outputs)"),
            "temperature": (self.temperature > 0, "above 0"),
        }
        for name, (good, words) in fits.items():
            if not good:
                raise ValueError(f"method.{name}={getattr(self, name)!r}: {words}")
        surrogate_slope(self.surrogate)
        object.__setattr__(self, "timesteps", max(steps))


def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    base: Any,
    data: Any,
    simulate: Mapping[str, Any] | None = None,
    teacher: str | None = None,
    trust: Sequence[str] = (),
    start: str | None = None,
    load: str | None = None,
    save: str | None = None,
    **settings: Any,
) -> SpikingModel:
    """`ann` converted by `base`, another method, then trained on the training images of `data` (see `Settings`).

    `base` and `data` are a method and `Splits`, or configurations of them.  The network of the run folder `teacher`, which may
    need `trust`, teaches in the place of `ann`.  `save` names a file for what was trained, written after every epoch; such a
    file, of any T, is where training begins with `start`, and takes its place with `load`.  ValueError if `base` gives anything
    but plain integrate-and-fire neurons.
    """
    how = Settings(**settings)
    snn = _built(base)(ann, batches, simulate=None)
    network = _trainable(snn, how)
    if found := load or start:
        checkpoint.load_weights(network, Path(found))
    if not load:
        train = _built(data).train
        _train(network, _teacher(ann, teacher, trust, train, how), train, how, save)
    elif save:
        _save(network, save)
    return SpikingModel(_plain(network), replace(snn.latency, needs_training="weights"), **(simulate or {}))


def _rehearse(ann: nn.Module, batches: Iterable, *, base: Any, load: str | None = None, save: str | None = None,
              start: str | None = None, teacher: str | None = None, trust: Sequence[str] = (),
              data: Any = None, simulate: Any = None, **settings: Any) -> None:  # fmt: skip
    """Everything but the training."""
    how = Settings(**settings)
    for name, file in {"load": load, "start": start}.items():
        if file and not Path(file).is_file():
            raise ValueError(f"method.{name}={file}: no such file; method.save writes one")
    if load and start:
        raise ValueError(f"method.start={start}: nothing is trained, as method.load={load} brings a trained network")
    if teacher is not None:
        if not how.distill:
            raise ValueError(f"method.teacher={teacher}: has no say with method.distill=0")
        require_teacher(teacher, "method.teacher")
    if save and not Path(save).parent.is_dir():
        raise ValueError(f"method.save={save}: {Path(save).parent} is no folder")
    snn = conversion.rehearse(functools.partial(_built(base), simulate=None), ann, batches)
    if snn is not None:
        _trainable(snn, how)


convert.rehearse = _rehearse  # type: ignore[attr-defined]


def _built(part: Any) -> Any:
    return instantiate(part) if isinstance(part, Mapping) else part


def _trainable(snn: SpikingModel, how: Settings) -> nn.Module:
    """The network of `snn` with neurons that can be trained; ValueError where they are not plain."""
    strange = [f"{path} is a {type(n).__name__} neuron" for path, n in snn.neurons().items()
               if type(n) is not IntegrateFire or n.amplitude is not n.threshold]  # fmt: skip
    if strange or not snn.anytime or snn.lookahead != 1 or snn.discard:
        reason = strange[0] if strange else str(snn.latency)
        raise ValueError(f"method.base: what is trained are plain integrate-and-fire neurons, one step after the other; here "
                         f"{reason}; use method@method.base=qcfs")  # fmt: skip
    network = snn.network.requires_grad_()
    slope, frozen = surrogate_slope(how.surrogate), how.thresholds == "frozen"
    for path, module in list(network.named_modules()):
        if isinstance(module, OverTime):
            neuron: Any = SurrogateIntegrateFire(module.neuron, slope, how.sharpness, how.detach_reset, frozen)  # type: ignore[arg-type]
            neuron.timesteps = how.timesteps
            set_submodule(network, path, neuron)
    return network


def _plain(network: nn.Module) -> nn.Module:
    """`network` with ordinary neurons again."""
    for path, module in list(network.named_modules()):
        if isinstance(module, SurrogateIntegrateFire):
            set_submodule(network, path, OverTime(module.trained()))
    return network


class Unrolled(nn.Module):
    """Logits of every step, [T, N, K], of a network of trainable neurons; what lies before the first is computed once."""

    def __init__(self, network: nn.Module, timesteps: int) -> None:
        super().__init__()
        self.before, self.after = split(network, SurrogateIntegrateFire)
        self.timesteps = timesteps

    def forward(self, images: Float[Tensor, "N *image"]) -> Float[Tensor, "T N K"]:
        """Step by step logits, layer by layer."""
        constants = [torch.cat([constant] * self.timesteps) for constant in self.before(images)]  # keeps channels_last
        return self.after(*constants).unflatten(0, (self.timesteps, -1))


def loss(
    logits: Float[Tensor, "T N K"], labels: Int64[Tensor, "N"], taught: Float[Tensor, "N K"] | None, how: Settings
) -> Float[Tensor, ""]:
    """(1 − d)·cross entropy + d·τ²·KL(ANN ‖ SNN) of mean outputs: of the last, or the mean over those up to each step."""
    steps = torch.arange(1, len(logits) + 1, device=logits.device).view(-1, 1, 1)
    means = logits.cumsum(0) / steps if how.loss == "every" else logits.mean(0, keepdim=True)
    total = (1 - how.distill) * F.cross_entropy(means.flatten(0, 1), labels.repeat(len(means)))
    if taught is not None and how.distill:
        total = total + how.distill * distillation(means, taught.expand_as(means), how.temperature)
    return total


def lr_at(step: int, steps: int, lr: float) -> float:
    """Half a cosine from `lr` to 0, after a short linear rise."""
    return lr * min(1.0, (step + 1) / (WARMUP * steps + 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _teacher(ann: nn.Module, run: str | None, trust: Sequence[str], train: Batches, how: Settings) -> nn.Module | None:
    """The network whose outputs are asked for: `ann` or that of the folder `run`; None if only labels count."""
    if not how.distill:
        return None
    folded = fold_batchnorm(ann)  # a copy, in eval mode
    if run is None:
        return folded
    images, dtype = next(iter(train))[0], next(folded.parameters()).dtype
    with torch.no_grad():
        classes = folded.to(images.device)(images[:1].to(dtype)).shape[-1]
        return load_teacher(run, images, classes, trust=trust, setting="method.teacher").to(dtype)


def _save(network: nn.Module, file: str) -> None:
    """What was trained, written by the first process."""
    if distributed.is_main():
        weights = {name: tensor.detach().contiguous().cpu() for name, tensor in network.state_dict().items()}
        files.replace(Path(file), as_bytes(weights))


def _train(network: nn.Module, teacher: nn.Module | None, train: Batches, how: Settings, save: str | None) -> None:
    """Train `network` in place; after every epoch it is kept in `save`.  TrainingError where the loss is not finite."""
    device, start = train.device, time.perf_counter()
    for part in [network] if teacher is None else [network, teacher]:
        part.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model: nn.Module = Unrolled(network, how.timesteps)  # type: ignore[arg-type]
    model = torch.compile(model) if how.compile else model  # type: ignore[assignment]
    if distributed.world_size() > 1:
        model = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    optimizer = _optimizer(network, how)
    dtype, steps, totals = next(network.parameters()).dtype, how.epochs * len(train), torch.zeros(3, device=device)
    for step, (images, labels) in enumerate(_epochs(train, how.epochs)):
        images = images.to(dtype)
        images = images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
        with torch.no_grad(), autocast(device, how.precision):
            taught = teacher(images).float() if teacher is not None else None
        with autocast(device, how.precision), nullcontext() if how.compile else RecomputedOutputs():
            logits = model(images)
        value = loss(logits.float(), labels, taught, how)
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, steps, how.lr)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        right = (logits.detach().mean(0).argmax(1) == labels).sum()
        totals += torch.stack([value.detach() * len(labels), right, torch.full_like(right, len(labels))])
        if (step + 1) % len(train) == 0:
            _tell(totals, (step + 1) // len(train), how, time.perf_counter() - start)
            totals.zero_()
            if save:
                _save(network, save)


def _optimizer(network: nn.Module, how: Settings) -> torch.optim.AdamW:
    """AdamW: folded batch norms leave layers, and thresholds, of very different scales.  Neither biases nor θ decay."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if (p.dim() > 1) == weights], "weight_decay": how.weight_decay * weights}
        for weights in (True, False)
    ]
    return torch.optim.AdamW(groups, lr=how.lr, betas=(how.momentum, 0.999), fused=trained[0].is_cuda or None)


def _epochs(train: Batches, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of all epochs, under one progress bar."""

    def passes() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(epochs):
            train.set_epoch(epoch)
            yield from train

    return track(passes(), "finetune", epochs * len(train), transient=True, disable=not distributed.is_main())  # type: ignore[return-value]


def _tell(totals: Tensor, epoch: int, how: Settings, seconds: float) -> None:
    """Log one epoch; TrainingError where its loss is not finite."""
    summed, right, images = distributed.sum_over_ranks(totals).tolist()
    if not math.isfinite(summed):
        raise TrainingError(f"method=finetune: the loss is not finite in epoch {epoch}; try a smaller method.lr")
    log.info("finetune %d/%d  T=%s  loss %.4f  train %.2f %%  %.0f s", epoch, how.epochs, how.timesteps,
             summed / images, 100 * right / images, seconds)  # fmt: skip
