"""A neuron that is silenced after a warm-up if its residual potential is not positive."""

from typing import Any

import torch
from torch import Tensor

from snnconv.nn import functional
from snnconv.nn.kernels import fused
from snnconv.spiking.neurons.base import Neuron, Node, Threshold, positive

SMALLEST_RESIDUE = 1e-3  # in units of θ: a neuron with a smaller residual potential should not have fired


@fused
def gate_residue(v: Tensor, threshold: Tensor, at_gate: Tensor) -> Tensor:
    """The potential after a step: `v`; where `at_gate`, θ/2 if v > θ/1000, else −∞, so that the neuron never fires."""
    gated = torch.zeros_like(v).masked_fill(v <= SMALLEST_RESIDUE * threshold, -torch.inf) + threshold / 2
    return torch.where(at_gate, gated, v)


class ResidualPotentialNode(Node):
    """Integrate-and-fire that after step τ = `warmup` is reset to θ/2 if v(τ) > θ/1000, and never fires again otherwise.

    A residual potential below 0 means that the neuron fired although its mean current is too small.
    """

    scalars = ("step",)
    constants = ("v_initial", "warmup")

    def __init__(self, threshold: Threshold, warmup: int) -> None:
        super().__init__(threshold, step=0.0)
        self.warmup = warmup

    def fire(self, current: Tensor, v: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes (0 or 1), v and the number of steps so far."""
        theta = self.threshold(v)
        spikes, v = functional.integrate_fire(current, v, theta)
        return spikes, gate_residue(v, theta, step + 1 == self.warmup), step + 1


class ResidualPotential(Neuron):
    """A `ResidualPotentialNode`: current [T, N, …] → θ·spikes [T, N, …]; the first `warmup` steps are to be discarded.

    Source: Hao et al., AAAI 2023 (SRP); hzc1208/ANN2SNN_SRP, modules.py.
    """

    def __init__(self, threshold: Any, warmup: int) -> None:
        theta = positive(threshold)
        super().__init__(theta, ResidualPotentialNode(theta, warmup))
