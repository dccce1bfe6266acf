"""The fastest execution settings of a training on a CPU, from a measurement of a few steps (`fit.tune=auto`).

The fastest memory layout and number of threads, and the benefit of compilation and of matrix products for small convolutions,
depend on the network and the machine (experiments/benchmark/README.md).  On a shared machine fewer threads can be several times
faster.
Results differ by rounding; the precision is changed only if requested.
"""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.nn.recompute import RecomputedOutputs
from snnconv.nn.small_maps import compute_as_product, compute_as_usual, serves
from snnconv.runtime import distributed, seed
from snnconv.runtime.compilation import compiled
from snnconv.runtime.environment import autocast
from snnconv.training.quantized_weights import Weights
from snnconv.training.settings import Fit

log = logging.getLogger(__name__)

FEW = 200  # steps of a training that is not worth a measurement
SHORT = 900.0  # seconds of one, as estimated
SHORT_TO_COMPILE = 3600.0  # seconds below which compilation, minutes on a busy machine, is not tried
GAIN = 0.97  # share of the time that a faster way may take
REPEATS = 3


@dataclass(frozen=True)
class Tuning:
    """Execution settings of a training, which are not part of its recipe; stored, so that a resumed training uses the same."""

    channels_last: bool
    compile: bool
    precision: str
    threads: int
    products: dict[str, list[int]] = field(default_factory=dict)  # convolution → size of its map

    def settings(self, settings: Fit) -> Fit:
        """`settings` with this layout, compilation and precision."""
        return replace(settings, channels_last=self.channels_last, compile=self.compile, precision=self.precision)

    @contextmanager
    def applied(self, ann: nn.Module) -> Iterator[None]:
        """Run with these threads, and with the products, which stay."""
        self.install(ann)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def install(self, ann: nn.Module) -> None:
        """Set layout and products of `ann`."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        ann.to(memory_format=layout)  # type: ignore[call-overload]
        compute_as_usual(ann)
        for path, size in self.products.items():
            compute_as_product(ann.get_submodule(path), size)  # type: ignore[arg-type]

    def __str__(self) -> str:
        parts = [f"{self.threads} thread{'s' * (self.threads != 1)}", self.precision]
        parts += ["channels_last"] * self.channels_last + ["compiled"] * self.compile
        return ", ".join(parts + [f"small convolutions as products: {len(self.products)}"] * bool(self.products))


def tune(
    ann: nn.Module, train: Any, settings: Fit, weights: Weights, stored: Mapping[str, Any] | None
) -> Tuning | None:
    """The `Tuning` of a training of `ann` on `train`; None if `settings` are used unchanged.

    `stored` is the saved state of a resumed training, whose tuning is used.  Only trainings on a CPU are tuned, and only if they
    are long enough to justify the measurement.  Rank 0 decides for all processes.  `ann` is not changed.
    """
    if stored is not None:
        return Tuning(**stored["tuning"]) if stored.get("tuning") else None
    steps = settings.epochs * len(train)
    if settings.tune == "none" or train.device.type != "cpu" or steps < FEW:
        return None
    with _unchanged(ann):
        images, _ = next(iter(train))
        given = Tuning(settings.channels_last, settings.compile, settings.precision, torch.get_num_threads())
        chosen = _choose(_Trial(ann, images, weights), given, settings, steps)
    chosen = distributed.broadcast(chosen)  # type: ignore[assignment]
    return chosen


def _choose(trial: "_Trial", given: Tuning, settings: Fit, steps: int) -> Tuning | None:
    """The fastest tuning found, one change after the other; None if the training is short."""
    trial.seconds(given)
    before = min(trial.seconds(given) for _ in range(2))
    if before * steps < SHORT:
        return None
    chosen = given
    for threads in {1, given.threads} - {given.threads}:
        chosen = trial.faster(chosen, replace(chosen, threads=threads))
    if trial.images.dim() == 4 and not given.channels_last:
        chosen = trial.faster(chosen, replace(chosen, channels_last=True))
    if settings.tune_precision and given.precision == "float32":
        chosen = trial.faster(chosen, replace(chosen, precision="bf16"))
    chosen = replace(chosen, products=trial.products(chosen))
    if not given.compile and not settings.distill_layers and before * steps > SHORT_TO_COMPILE:
        with_compiler = replace(chosen, compile=True)
        try:
            chosen = trial.faster(chosen, with_compiler)
        except torch._dynamo.exc.TorchDynamoException as error:
            log.info("fit.tune: not compiled (%s)", str(error).splitlines()[0])
    after = min(trial.seconds(chosen) for _ in range(2))
    log.info("fit.tune: %s; %.0f ms per step instead of %.0f ms (fit.tune=none disables this)",
             chosen, 1000 * after, 1000 * before)  # fmt: skip
    return chosen


class _Trial:
    """Times steps of a training: forward and backward, no step of the optimizer."""

    def __init__(self, ann: nn.Module, images: Tensor, weights: Weights) -> None:
        self.ann, self.images, self.weights = ann.train(), images, weights

    def seconds(self, tuning: Tuning) -> float:
        """Of one step."""
        layout = torch.channels_last if tuning.channels_last else torch.contiguous_format
        images = self.images.contiguous(memory_format=layout)
        network: Any = compiled(self.ann) if tuning.compile else self.ann
        with tuning.applied(self.ann), self.weights.trained(self.ann):
            start = time.perf_counter()
            with autocast(images.device, tuning.precision), nullcontext() if tuning.compile else RecomputedOutputs():
                loss = network(images).square().mean()  # whatever the task: its loss takes no time beside the network
            loss.backward()
            seconds = time.perf_counter() - start
        self.ann.zero_grad(set_to_none=True)
        return seconds

    def faster(self, one: Tuning, other: Tuning) -> Tuning:
        """`other` if its steps are clearly faster than those of `one`."""
        times = _alternated(lambda: self.seconds(one), lambda: self.seconds(other))
        return other if times[1] < GAIN * times[0] else one

    def products(self, tuning: Tuning) -> dict[str, list[int]]:
        """The convolutions that are faster as products, and the sizes of their maps; equal layers are measured once."""
        measured: dict[Any, bool] = {}
        chosen = {}
        with tuning.applied(self.ann):
            for path, (conv, shape) in self._small_convolutions(tuning).items():
                kind = (shape, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
                if kind not in measured:
                    measured[kind] = _gains(conv, shape, tuning)
                if measured[kind]:
                    chosen[path] = list(shape[2:])
        return chosen

    def _small_convolutions(self, tuning: Tuning) -> dict[str, tuple[nn.Conv2d, torch.Size]]:
        """Convolutions that can be products, and the shapes of their inputs, by path."""
        shapes: dict[str, Any] = {}
        handles = [
            module.register_forward_pre_hook(lambda _, inputs, path=path: shapes.update({path: inputs[0].shape}))
            for path, module in self.ann.named_modules()
            if type(module) is nn.Conv2d
        ]
        self.seconds(replace(tuning, compile=False))
        for handle in handles:
            handle.remove()
        layers = {path: (self.ann.get_submodule(path), shape) for path, shape in shapes.items()}
        return {path: (conv, shape) for path, (conv, shape) in layers.items() if serves(conv, shape[2:])}  # type: ignore[misc]


def _gains(conv: nn.Conv2d, shape: torch.Size, tuning: Tuning) -> bool:
    """Is a copy of `conv` faster as a product, forward and backward, on inputs of `shape`?"""
    layout = torch.channels_last if tuning.channels_last else torch.contiguous_format
    usual = copy.deepcopy(conv)
    fast = copy.deepcopy(conv)
    compute_as_product(fast, shape[2:])
    images = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()  # type: ignore[call-overload]

    def seconds(layer: nn.Conv2d) -> float:
        start = time.perf_counter()
        with autocast(images.device, tuning.precision):
            output = layer(images)
        output.backward(output.detach())
        return time.perf_counter() - start

    times = _alternated(lambda: seconds(usual), lambda: seconds(fast))
    return times[1] < GAIN * times[0]


def _alternated(*measurements: Callable[[], float]) -> list[float]:
    """The least of several values of each, taken in turn after one that does not count."""
    rounds = [[measure() for measure in measurements] for _ in range(1 + REPEATS)]
    return [min(values) for values in zip(*rounds[1:], strict=True)]


@contextmanager
def _unchanged(ann: nn.Module) -> Iterator[None]:
    """Restore parameters, buffers, layout, mode and random numbers afterwards."""
    mode, state, rng = ann.training, copy.deepcopy(ann.state_dict()), seed.rng_state()
    try:
        yield
    finally:
        compute_as_usual(ann)
        ann.load_state_dict(state)
        ann.train(mode)
        seed.set_rng_state(rng)


def as_facts(tuning: Tuning | None) -> dict[str, Any]:
    """Entries about `tuning` for the state and the description of a network; empty if there was none."""
    return {"tuning": asdict(tuning)} if tuning else {}
