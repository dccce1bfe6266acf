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
    """Emits 0, 1, …, `most` spikes in a step."""

    constants = ("v_initial", "most")

    def __init__(self, threshold: Threshold, v_initial: float | Tensor, most: int) -> None:
        super().__init__(threshold, v_initial)
        self.most = most

    def fire(self, current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Number of spikes and v."""
        return burst_fire(current, v, self.threshold(v), self.most)


class Burst(Neuron):
    """Up to `most` spikes a step, each counting θ: current [T, N, …] → θ·spikes [T, N, …].

    `threshold` is a number or [C], one θ a channel; v(0) = `v_initial`·θ.  With `most` = 1 it is integrate-and-fire; its
    output in a step is at most `most`·θ.  ValueError unless `most` is an integer of at least 1.
    """

    def __init__(self, threshold: Any, most: int, v_initial: float | Tensor = 0.0) -> None:
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise ValueError(f"most={most!r}: spikes of one neuron in one step, an integer of at least 1")
        theta = positive(threshold)
        super().__init__(theta, BurstNode(theta, v_initial, most))
