"""SpikingJelly's conversion of transformers, STATransformerRecipe.  After Jiang et al., ICLR 2024 (STA)."""

import copy
import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from spikingjelly.activation_based.ann2snn.recipes.sta_transformer import _STAThresholdObserver
from torch import Tensor, nn

from snnconv.conversion.method import converts
from snnconv.data.batches import in_batches
from snnconv.nn.graph.biases import homogeneous
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime, to_spiking
from snnconv.spiking.neurons.spikingjelly import STAEncoder
from snnconv.spiking.operators.base import Encoder
from snnconv.spiking.operators.encoded_outputs import encode_outputs
from snnconv.spiking.operators.running_mean import RunningMean
from snnconv.spiking.simulation import Simulation, Timing

MODES = ("mse", "max")


def _briefly(ann: nn.Module, batches: Iterable, *, iterations: int = 1, **settings: Any) -> SpikingModel:
    """`convert` with one iteration (or fewer, if that is the mistake)."""
    return convert(ann, batches, iterations=min(iterations, 1), **settings)


@converts(Encoder, rehearse=_briefly, place=encode_outputs)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    time_steps: int = 8,
    threshold_mode: str = "mse",
    threshold_scale: float = 0.5,
    momentum: float = 0.1,
    iterations: int = 32,
    batch_size: int = 64,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with the thresholds and encoders that `STATransformerRecipe(mode="spiking_encoder")` puts in its places.

    An encoder behind every layer norm, GELU and attention sends trunc(v/θ) spikes of either sign in a step; θ [C] is of the order
    of the largest value / `time_steps`, for the last axis.  Everything else is computed in sums: out_t = F(Σx up to t) −
    F(Σx up to t − 1).  Image and biases are given in the first step and nothing afterwards, as in SpikingJelly's example, and the
    readout is the *sum* of the steps; the mean has the same argmax.

    Nothing is left for later steps: v stays below θ, so **the first step is the answer**, and `time_steps` sets the number of
    levels, not the duration.  `latency.spike_levels` is the largest number of spikes on calibration images.

    The defaults are those of SpikingJelly's ImageNet example.  ValueError for settings out of range, without images, or naming
    what cannot be carried.
    """
    if type(time_steps) is not int or time_steps < 1:
        raise ValueError(f"method.time_steps={time_steps!r}: an integer of at least 1")
    if threshold_mode not in MODES:
        raise ValueError(f"method.threshold_mode={threshold_mode!r}: {' or '.join(MODES)}")
    if not (threshold_scale > 0 and 0 <= momentum <= 1):
        raise ValueError(
            f"method.threshold_scale={threshold_scale}, method.momentum={momentum}: above 0, and from 0 to 1"
        )
    parts = in_batches(batches, batch_size, iterations)
    if not parts:
        raise ValueError(
            "SpikingJelly's recipes find thresholds on calibration images, and there are none (data.calibration)"
        )
    observers = {
        path: _Observer(time_steps, -1, threshold_mode, momentum, eps=1e-6)
        for path, module in ann.named_modules()
        if isinstance(module, Encoder)
    }
    _observe(ann, observers, [images for images, _ in parts])
    theta = {path: threshold_scale * observer.compute_threshold() for path, observer in observers.items()}
    network = to_spiking(ann, Encoder, lambda path, _: STAEncoder(theta[path]))
    for module in network.modules():
        if isinstance(module, RunningMean):
            module.normalized = False  # inputs are given at once, so sums stand for activations
    levels = max(math.ceil((observer.largest / theta[path]).max().item()) for path, observer in observers.items())
    latency = Latency(signed=True, spike_levels=max(levels, 1))
    return SpikingModel(homogeneous(network, OverTime), latency, Timing(presented=1), simulation=simulate)


class _Observer(_STAThresholdObserver):
    """SpikingJelly's observer, which also remembers the `largest` absolute value of each channel."""

    largest: Tensor | float = 0.0

    def __call__(self, output: Tensor) -> None:
        super().__call__(output)
        self.largest = torch.maximum(output.abs().flatten(0, -2).amax(0), torch.as_tensor(self.largest).to(output))


@torch.no_grad()
def _observe(ann: nn.Module, observers: Mapping[str, _Observer], batches: Iterable[Tensor]) -> None:
    """Show `observers` the outputs of the modules at their paths, in eval mode."""
    ann = copy.deepcopy(ann).eval()
    with ExitStack() as stack:
        for path, observer in observers.items():
            hook = lambda module, inputs, output, observer=observer: observer(output)  # noqa: E731
            stack.callback(ann.get_submodule(path).register_forward_hook(hook).remove)
        for images in batches:
            ann.to(images.device)(images)
