"""Local threshold balancing: a threshold a channel that grows with what it clips.  Bu et al., CVPR 2025.

"Inference-Scale Complexity in ANN-SNN Conversion for High-Performance and Low-Power Applications"; details from its code,
putshua/Inference-scale-ANN-SNN.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.conversion.method import converts
from snnconv.data.batches import in_batches
from snnconv.nn.graph.rewrite import replace_modules
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.base import per_channel
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.simulation import Simulation


class Balancing(nn.Module):
    """ReLU clipped at θ_c, where every batch first raises θ_c += 2·rate · mean over the channel of (x − θ_c)·1[x > θ_c].

    A step down the gradient of the squared clipping error.  θ starts at 0, never falls, and rests where nothing is clipped.
    """

    def __init__(self, rate: float, ceiling: float = math.inf) -> None:
        super().__init__()
        self.ceiling = ceiling  # of a clipped ReLU
        self.rate = rate
        self.threshold: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The output of the clipped layer."""
        x = x.clamp_max(self.ceiling)
        threshold = x.new_zeros(x.shape[1]) if self.threshold is None else self.threshold
        overflow = (x - per_channel(threshold, x)).clamp_min(0)
        self.threshold = threshold + 2 * self.rate * overflow.transpose(0, 1).flatten(1).mean(1)
        return torch.minimum(x.clamp_min(0), per_channel(self.threshold, x))


def _briefly(ann: nn.Module, batches: Iterable, *, iterations: int = 1, **settings: Any) -> SpikingModel:
    """`convert` with one iteration (or fewer, if that is the mistake)."""
    return convert(ann, batches, iterations=min(iterations, 1), **settings)


@converts(nn.ReLU, rehearse=_briefly)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    iterations: int = 100,
    batch_size: int = 50,
    rate: float = 1.0,
    readout_from: int = 1,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with integrate-and-fire neurons, v(0) = θ/2, whose θ [C] are balanced on `iterations` batches.

    All layers at once: each sees what the clipped layers before it let through.  Calibration images are gone through again as
    often as it takes, `batch_size` at a time.  A channel that is never active gets the largest θ of its layer.  The paper reads
    out late: logits before step `readout_from` do not count in the prediction.

    ValueError for settings out of range, without images, naming a layer that none of them activates, or naming the path of
    every layer that cannot be carried.
    """
    if type(readout_from) is not int or readout_from < 1:
        raise ValueError(f"method.readout_from={readout_from}: an integer of at least 1")
    if not rate > 0:
        raise ValueError(f"method.rate={rate}: above 0")
    theta = balanced_thresholds(ann, in_batches(batches, batch_size, iterations), rate)
    network = to_spiking(ann, nn.ReLU, lambda path, site: IntegrateFire(theta[path]))
    return SpikingModel(network, Latency(readout_from=readout_from), simulation=simulate)


@torch.no_grad()
def balanced_thresholds(ann: nn.Module, batches: Iterable, rate: float) -> dict[str, Tensor]:
    """θ [C] of every ReLU by path, after all `batches`."""
    network = replace_modules(ann, nn.ReLU, lambda site: Balancing(rate, getattr(site, "ceiling", math.inf))).eval()
    for images, _ in batches:
        network.to(images.device)(images)
    theta = {path: module.threshold for path, module in network.named_modules() if isinstance(module, Balancing)}
    for path, threshold in theta.items():
        if threshold is None:
            raise ValueError(f"{path}: no calibration images to find a threshold with (data.calibration)")
        if not threshold.max() > 0:
            raise ValueError(
                f"{path}: no calibration image makes this layer active; use more images (data.calibration)"
            )
        theta[path] = torch.where(threshold > 0, threshold, threshold.max())
    return theta  # type: ignore[return-value]
