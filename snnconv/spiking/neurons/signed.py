"""Signed integrate-and-fire: a negative spike cancels a spike that was emitted too early."""

from typing import Any

import torch
from jaxtyping import Float
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

    def __init__(self, threshold: Threshold, v_initial: float | Tensor, negative: float | Tensor) -> None:
        super().__init__(threshold, v_initial, emitted=0.0)
        self.negative: Any = negative  # a number, or [T]

    def fire(self, current: Tensor, v: Tensor, emitted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes, v and the sum of spikes."""
        threshold = self.threshold(v)
        return signed_fire(current, v, emitted, threshold, -self.negative * threshold)


class ScheduledSignedNode(SignedNode):
    """`SignedNode` with one `negative` for each step; later steps use the last."""

    scalars = ("step",)

    def __init__(self, threshold: Threshold, v_initial: float | Tensor, negative: Float[Tensor, "T"]) -> None:
        super().__init__(threshold, v_initial, negative)
        self.register_memory("step", 0.0)

    def materialize_states(self, inputs: tuple, states: tuple, step_mode: str) -> tuple:
        """States as in `Node`; moves `negative` to the device of the current."""
        self.negative = self.negative.to(inputs[0].device)
        return super().materialize_states(inputs, states, step_mode)

    def fire(self, current: Tensor, v: Tensor, emitted: Tensor, step: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Spikes, v, the sum of spikes, and the number of steps so far."""
        threshold = self.threshold(v)
        factor = self.negative.index_select(0, step.long().clamp_max(len(self.negative) - 1).view(1)).to(v.dtype)
        return *signed_fire(current, v, emitted, threshold, -factor * threshold), step + 1


class Signed(Neuron):
    """Signed integrate-and-fire with memory: current [T, N, …] → θ·spikes [T, N, …], spikes −1, 0 or 1.

    A negative spike is emitted at v ≤ −`negative`·θ; v(0) = `v_initial`·θ.  The published rules:

    Fast-SNN (Hu et al., TPAMI 2023)   negative = 0.001, v_initial = ½   (its code: v ≤ −0.001, for every θ)
    SNM (Wang et al., IJCAI 2022)      negative = 1,     v_initial = 0

    `threshold` is a number or [C], one θ per channel.  `negative` is a number, or [T], one for each step, of which the last is used
    in later steps.  ValueError unless `negative` is positive.
    """

    def __init__(self, threshold: Any, v_initial: float | Tensor = 0.5, negative: float | Tensor = 1e-3) -> None:
        values = torch.as_tensor(negative, dtype=torch.float64)
        if not bool(((values > 0) & values.isfinite()).all()):
            raise ValueError(
                f"method.negative={negative}: must be a positive number (0.001 or 1: a negative spike at v ≤ −negative·θ)"
            )
        theta = positive(threshold)
        scheduled = values.dim() > 0
        node = ScheduledSignedNode(theta, v_initial, values) if scheduled else SignedNode(theta, v_initial, negative)
        super().__init__(theta, node)
