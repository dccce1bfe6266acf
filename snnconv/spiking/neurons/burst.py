"""Integrate-and-fire that may emit several spikes in one timestep."""

from typing import Any

from torch import Tensor

from snnconv.nn.kernels import fused
from snnconv.spiking.neurons.base import Neuron, Node, Threshold, positive


@fused
def burst_fire(current: Tensor, v: Tensor, threshold: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """One timestep: (spikes, next v) with v ← v + x;  spikes = clip(⌊v/θ⌋, 0, `most`);  v ← v − θ·spikes."""
    charged = v + current
    spikes = (charged / threshold).floor().clamp(0, most)
    return spikes.to(current.dtype), charged - threshold * spikes


class BurstNode(Node):
    """Emits 0, 1, …, or `most` spikes in a step."""

    constants = ("v_initial", "most")

    def __init__(self, threshold: Threshold, v_initial: float | Tensor, most: int) -> None:
        super().__init__(threshold, v_initial)
        self.most = most

    def fire(self, current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Number of spikes and v."""
        return burst_fire(current, v, self.threshold(v), self.most)


class Burst(Neuron):
    """Emits up to `most` spikes of size θ in a step: current [T, N, …] → θ·spikes [T, N, …].

    `threshold` is a number or [C], one θ per channel; v(0) = `v_initial`·θ.  With `most` = 1 it equals integrate-and-fire.  The
    output in a step is at most `most`·θ.  ValueError unless `most` is an integer of at least 1.
    """

    def __init__(self, threshold: Any, most: int, v_initial: float | Tensor = 0.0) -> None:
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise ValueError(f"most={most!r}: must be an integer of at least 1 (spikes of one neuron in one step)")
        theta = positive(threshold)
        super().__init__(theta, BurstNode(theta, v_initial, most))
