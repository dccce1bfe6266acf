"""Bipolar integrate-and-fire with a spike tracer (ST-BIF): the sum of its spikes converges to a quantized activation."""

from typing import Any

from torch import Tensor

from snnconv.nn.kernels import fused
from snnconv.spiking.neurons.base import Neuron, Node, Threshold, positive


@fused
def st_bif(
    current: Tensor, v: Tensor, emitted: Tensor, threshold: Tensor, levels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One timestep: (spikes, next v, next sum S of spikes).

    v ← v + x;  spike = +1 if v ≥ θ and S < L, −1 if v < 0 and S > 0;  v ← v − θ·spike, S ← S + spike.
    """
    charged = v + current
    spikes = ((charged >= threshold) & (emitted < levels)).to(charged.dtype)
    spikes = spikes - ((charged < 0) & (emitted > 0)).to(charged.dtype)
    return spikes.to(current.dtype), charged - threshold * spikes, emitted + spikes


class STBIFNode(Node):
    """Emits −1, 0 or 1; their sum is in 0 … `levels`.  SpikingJelly's STBIFNode in units of θ and the precision of `Node`."""

    constants = ("v_initial", "levels")

    def __init__(self, threshold: Threshold, levels: int) -> None:
        super().__init__(threshold, v_initial=0.5, emitted=0.0)
        self.levels = levels

    def fire(self, current: Tensor, v: Tensor, emitted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes, v and the sum of spikes."""
        return st_bif(current, v, emitted, self.threshold(v), self.levels)


class STBIF(Neuron):
    """ST-BIF for an activation of L = `levels` up to θ: current [T, N, …] → (θ/L)·spikes [T, N, …], spikes −1, 0 or 1.

    v(0) = θ/2L.  When the current has ended and enough steps have passed, the sum of the outputs is exactly qcfs(Σx, θ, L), for any
    order of the currents.  Source: You et al., ICML 2024 (SpikeZIP-TF).
    """

    def __init__(self, threshold: Any, levels: int) -> None:
        theta = positive(threshold)
        super().__init__(theta, STBIFNode(theta / levels, levels), amplitude=theta / levels)

    @property
    def value(self) -> Threshold:
        """θ/L."""
        return self.threshold / self.node.levels  # type: ignore[operator]
