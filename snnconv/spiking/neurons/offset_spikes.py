"""A neuron that simulates its first inputs, then starts from the potential with which it fires as often as it should have."""

from typing import Any

import torch
from torch import Tensor

from snnconv.nn import functional
from snnconv.nn.kernels import fused
from snnconv.spiking.neurons.base import Neuron, Node, Threshold, positive

MARGIN = 1e-3  # in units of θ: by how much a shifted potential misses, or passes, the threshold


@fused
def try_out(
    current: Tensor, v: Tensor, fired: Tensor, silent: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of integrate-and-fire: v, the least v + x with which it has fired, the largest with which it has not."""
    charged = v + current
    fires = charged >= threshold
    return (
        charged - threshold * fires.to(charged.dtype),
        torch.where(fires, torch.minimum(fired, charged), fired),
        torch.where(fires, silent, torch.maximum(silent, charged)),
    )


@fused
def shifted(v_initial: Tensor, offset: Tensor, fired: Tensor, silent: Tensor, wanted: int, threshold: Tensor) -> Tensor:
    """v(0) for one spike less where `offset` ≤ −`wanted`, for one more where it is ≥ `wanted`; `fired`, `silent` as in `try_out`.

    v(0) − max(fired − 0.999 θ, θ) takes exactly one spike away, v(0) + max(1.001 θ − silent, θ) adds exactly one: from that step
    on the potential is where it was, or so near that it fires as before.  Where no step fired, or all did, v(0) stays.
    """
    less = threshold + (fired - (2 - MARGIN) * threshold).clamp_min(0)
    more = threshold + (MARGIN * threshold - silent).clamp_min(0)
    v_initial = torch.where((offset <= -wanted) & (fired < torch.inf), v_initial - less, v_initial)
    return torch.where((offset >= wanted) & (silent > -torch.inf), v_initial + more, v_initial)


class OffsetSpikesNode(Node):
    """Integrate-and-fire whose v(0) is found from its first ρ = `warmup` inputs, which it therefore has to see together.

    From θ/2 these inputs leave v(ρ) = θ/2 + Σ current − θ Σ spikes: ⌊v(ρ)/θ⌋ more spikes (fewer, if negative) would be what an
    even current brings, clip(⌊Σ current/θ + ½⌋, 0, ρ).  Each of the `iterations` tries the inputs out and shifts v(0) by one spike.
    """

    constants = ("v_initial", "warmup", "iterations")

    def __init__(self, threshold: Threshold, warmup: int, iterations: int = 1) -> None:
        super().__init__(threshold)
        self.warmup, self.iterations = warmup, iterations

    def fire(self, current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes (0 or 1) and v."""
        return functional.integrate_fire(current, v, self.threshold(v))

    def materialize_states(self, inputs: tuple, states: tuple, step_mode: str) -> tuple:
        """The potential: kept while it fits the batch, else v(0) from the first inputs; ValueError if fewer than ρ come at once."""
        (v,) = super().materialize_states(inputs, states, step_mode)
        current = inputs[0] if step_mode == "m" else inputs[0].unsqueeze(0)
        if self.fits(states, current[0]):
            return (v,)
        if len(current) < self.warmup:
            raise ValueError(
                f"OffsetSpikes: v(0) depends on the first {self.warmup} inputs together, got {len(current)}"
            )
        return (self.calibrated(current[: self.warmup], v),)

    def calibrated(self, current: Tensor, v_initial: Tensor) -> Tensor:
        """v(0) from the first inputs and θ/2."""
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

    Source: Hao et al., ICLR 2023 (COS); amounts as in hzc1208/ANN2SNN_COS, modules.py, but for neurons that fire at all ρ steps:
    there they get 1000 θ and never rest again, here they stay as they are.
    """

    def __init__(self, threshold: Any, warmup: int, iterations: int = 1) -> None:
        theta = positive(threshold)
        super().__init__(theta, OffsetSpikesNode(theta, warmup, iterations))
