"""A neuron that observes itself for some steps, and is silent afterwards if it then holds no potential."""

from typing import Any

import torch
from torch import Tensor

from snnconv.nn import functional
from snnconv.nn.kernels import fused
from snnconv.spiking.neurons.base import Neuron, Node, Threshold, positive

SMALLEST_RESIDUE = 1e-3  # in units of θ: a neuron that holds no more counts as one that should not have fired


@fused
def gate_residue(v: Tensor, threshold: Tensor, at_gate: Tensor) -> Tensor:
    """The potential after a step: `v`, but where `at_gate` θ/2 if v > θ/1000, and −∞ if not, which no current fires."""
    gated = torch.zeros_like(v).masked_fill(v <= SMALLEST_RESIDUE * threshold, -torch.inf) + threshold / 2
    return torch.where(at_gate, gated, v)


class ResidualPotentialNode(Node):
    """Integrate-and-fire that asks at step τ = `warmup` whether v(τ) > θ/1000, and then starts anew from θ/2, or never fires again.

    A residual potential below 0 says that the neuron fired though its mean current would not have let it.
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
    """A `ResidualPotentialNode`: current [T, N, …] → θ·spikes [T, N, …], of which the first `warmup` are not meant to count.

    Source: Hao et al., AAAI 2023 (SRP); hzc1208/ANN2SNN_SRP, modules.py.
    """

    def __init__(self, threshold: Any, warmup: int) -> None:
        theta = positive(threshold)
        super().__init__(theta, ResidualPotentialNode(theta, warmup))
