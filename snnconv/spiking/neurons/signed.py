"""Signed integrate-and-fire: a negative spike cancels a spike that was emitted too early."""

from typing import Any

from torch import Tensor

from snnconv.nn.kernels import fused
from snnconv.spiking.neurons.base import Neuron, Node, Threshold, positive


@fused
def signed_fire(
    current: Tensor, v: Tensor, emitted: Tensor, threshold: Tensor, negative_threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One timestep: (spikes, next v, next sum of spikes), for θ⁻ = `negative_threshold` < 0.

    v ← v + x;  spike = +1 if v ≥ θ, −1 if v ≤ θ⁻ and the sum of earlier spikes is above 0;  v ← v − θ·spike.
    """
    charged = v + current
    spikes = (charged >= threshold).to(charged.dtype)
    spikes = spikes - ((charged <= negative_threshold) & (emitted > 0)).to(charged.dtype)
    return spikes.to(current.dtype), charged - threshold * spikes, emitted + spikes


class SignedNode(Node):
    """Emits −1, 0 or 1 and stores the sum of its spikes, which is never below 0."""

    constants = ("v_initial", "negative")

    def __init__(self, threshold: Threshold, v_initial: float | Tensor, negative: float) -> None:
        super().__init__(threshold, v_initial, emitted=0.0)
        self.negative = negative

    def fire(self, current: Tensor, v: Tensor, emitted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes, v and the sum of spikes."""
        threshold = self.threshold(v)
        return signed_fire(current, v, emitted, threshold, -self.negative * threshold)


class Signed(Neuron):
    """Signed integrate-and-fire with memory: current [T, N, …] → θ·spikes [T, N, …], spikes −1, 0 or 1.

    A negative spike is emitted at v ≤ −`negative`·θ; v(0) = `v_initial`·θ.  The published rules:

    Fast-SNN (Hu et al., TPAMI 2023)   negative = 0.001, v_initial = ½   (its code: v ≤ −0.001, for every θ)
    SNM (Wang et al., IJCAI 2022)      negative = 1,     v_initial = 0

    `threshold` is a number or [C], one θ per channel.  ValueError unless `negative` is positive.
    """

    def __init__(self, threshold: Any, v_initial: float | Tensor = 0.5, negative: float = 1e-3) -> None:
        if not 0 < negative < float("inf"):
            raise ValueError(
                f"method.negative={negative}: must be a positive number (0.001 or 1: a negative spike at v ≤ −negative·θ)"
            )
        theta = positive(threshold)
        super().__init__(theta, SignedNode(theta, v_initial, negative))
