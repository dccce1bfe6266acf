"""Local threshold balancing: the threshold of each channel grows with the activation that it clips.  Bu et al., CVPR 2025.

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
    """ReLU clipped at θ_c; every batch first updates θ_c += 2·rate · mean over the channel of (x − θ_c)·1[x > θ_c].

    The update is a gradient step on the squared clipping error.  θ starts at 0, never decreases, and stops when nothing is clipped.
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
    """`convert` with at most one iteration (an `iterations` below 1 still raises its error)."""
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

    All layers are balanced together; each receives the outputs of the clipped layers before it.  Calibration images are reused as
    often as needed, `batch_size` at a time.  A channel that is never active gets the largest θ of its layer.  Logits before step
    `readout_from` do not count in the prediction (the paper skips the first steps).

    ValueError for settings out of range, without images, naming a layer that no image activates, or naming the path of every
    layer that cannot be converted.
    """
    if type(readout_from) is not int or readout_from < 1:
        raise ValueError(f"method.readout_from={readout_from}: must be an integer of at least 1")
    if not rate > 0:
        raise ValueError(f"method.rate={rate}: must be above 0")
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
            raise ValueError(
                f"{path}: there are no calibration images to compute its threshold from (data.calibration)"
            )
        if not threshold.max() > 0:
            raise ValueError(f"{path}: no calibration image activates this layer; use more images (data.calibration)")
        theta[path] = torch.where(threshold > 0, threshold, threshold.max())
    return theta  # type: ignore[return-value]
