"""A neuron that simulates its first inputs, then corrects v(0) so that its number of spikes equals the target."""

from typing import Any

import torch
from torch import Tensor

from snnconv.nn import functional
from snnconv.nn.kernels import fused
from snnconv.spiking.neurons.base import Neuron, Node, Threshold, positive

MARGIN = 1e-3  # distance of a shifted potential from the threshold, in units of θ


@fused
def try_out(
    current: Tensor, v: Tensor, fired: Tensor, silent: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of integrate-and-fire: v, the smallest v + x at which it fired, the largest v + x at which it did not."""
    charged = v + current
    fires = charged >= threshold
    return (
        charged - threshold * fires.to(charged.dtype),
        torch.where(fires, torch.minimum(fired, charged), fired),
        torch.where(fires, silent, torch.maximum(silent, charged)),
    )


@fused
def shifted(v_initial: Tensor, offset: Tensor, fired: Tensor, silent: Tensor, number: int, threshold: Tensor) -> Tensor:
    """v(0) for one spike less if `offset` ≤ −`number`, or one more if `offset` ≥ `number`; `fired`, `silent` as in `try_out`.

    v(0) − max(fired − 0.999 θ, θ) removes exactly one spike, v(0) + max(1.001 θ − silent, θ) adds exactly one: after that step the
    potential is the same as before, or so close that the neuron fires in the same steps.  If it fired in no step, or in all steps,
    v(0) is not changed.
    """
    less = threshold + (fired - (2 - MARGIN) * threshold).clamp_min(0)
    more = threshold + (MARGIN * threshold - silent).clamp_min(0)
    v_initial = torch.where((offset <= -number) & (fired < torch.inf), v_initial - less, v_initial)
    return torch.where((offset >= number) & (silent > -torch.inf), v_initial + more, v_initial)


class OffsetSpikesNode(Node):
    """Integrate-and-fire whose v(0) is computed from its first ρ = `warmup` inputs, which must be passed in one call.

    Starting from θ/2, these inputs give v(ρ) = θ/2 + Σ current − θ Σ spikes.  An even current would give ⌊v(ρ)/θ⌋ more spikes
    (fewer if negative): clip(⌊Σ current/θ + ½⌋, 0, ρ).  Each of the `iterations` simulates the inputs and shifts v(0) by one spike.
    """

    constants = ("v_initial", "warmup", "iterations")

    def __init__(self, threshold: Threshold, warmup: int, iterations: int = 1) -> None:
        super().__init__(threshold)
        self.warmup, self.iterations = warmup, iterations

    def fire(self, current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes (0 or 1) and v."""
        return functional.integrate_fire(current, v, self.threshold(v))

    def materialize_states(self, inputs: tuple, states: tuple, step_mode: str) -> tuple:
        """The potential: unchanged if it fits the batch, else v(0) from the first inputs; ValueError for fewer than ρ inputs."""
        (v,) = super().materialize_states(inputs, states, step_mode)
        current = inputs[0] if step_mode == "m" else inputs[0].unsqueeze(0)
        if self.fits(states, current[0]):
            return (v,)
        if len(current) < self.warmup:
            raise ValueError(
                f"OffsetSpikes: the first call needs at least {self.warmup} inputs to compute v(0), got {len(current)}"
            )
        return (self.calibrated(current[: self.warmup], v),)

    def calibrated(self, current: Tensor, v_initial: Tensor) -> Tensor:
        """v(0), corrected from θ/2 by the first inputs."""
        threshold, offset = self.threshold(v_initial), v_initial
        for number in range(1, self.iterations + 1):
            v, fired, silent = v_initial, torch.full_like(v_initial, torch.inf), torch.full_like(v_initial, -torch.inf)
            for step in current:
                v, fired, silent = try_out(step, v, fired, silent, threshold)
            offset = (v / threshold).floor() if number == 1 else offset
            v_initial = shifted(v_initial, offset, fired, silent, number, threshold)
        return v_initial


class OffsetSpikes(Neuron):
    """An `OffsetSpikesNode`: current [T, N, …] → θ·spikes [T, N, …], T at least ρ = `warmup` in the first call after a reset.

    Source: Hao et al., ICLR 2023 (COS); shifts of v(0) as in hzc1208/ANN2SNN_COS, modules.py, except for neurons that fire in all ρ
    steps: there v(0) grows by 1000 θ, so that they always fire; here v(0) is not changed.
    """

    def __init__(self, threshold: Any, warmup: int, iterations: int = 1) -> None:
        theta = positive(threshold)
        super().__init__(theta, OffsetSpikesNode(theta, warmup, iterations))
