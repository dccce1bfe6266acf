"""A neuron that waits for all its inputs and computes its spikes in closed form; the spikes come first."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from snnconv.spiking.neurons.base import Neuron, Node, positive


class ParallelNode(Node):
    """s_t = 1[(T·mean current + v(0))/t ≥ θ] for t = 1…T: the spikes of all T steps of a call, computed in parallel.

    Their number is clip(⌊(Σ current + v(0))/θ⌋, 0, T) for any distribution of the current over time; they occupy the first steps.
    """

    def supported_step_mode(self) -> tuple[str, ...]:
        """Only multi-step mode, because each spike depends on all inputs."""
        return ("m",)

    def multi_step_functional_forward(self, inputs: tuple, states: tuple, **kwargs: Any) -> tuple:
        """Spikes [T, N, …], and the remaining potential, v(0) + Σ current − θ Σ spikes."""
        (current,), (v,) = inputs, states
        charged, threshold = v + summed(current, v.dtype), self.threshold(v)
        t = torch.arange(1, len(current) + 1, device=v.device, dtype=v.dtype).view(-1, *[1] * v.dim())
        spikes = (charged >= t * threshold).to(v.dtype)
        return (spikes.to(current.dtype),), (charged - threshold * summed(spikes, v.dtype),)


def summed(steps: Float[Tensor, "T *shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """Sum over time in `dtype`, computed in memory order; torch's own sum is up to ten times slower for channels_last steps."""
    order = sorted(range(1, steps.dim()), key=steps.stride, reverse=True)
    back = sorted(range(len(order)), key=order.__getitem__)
    return steps.permute(0, *order).sum(0, dtype=dtype).permute(back)


class Parallel(Neuron):
    """A `ParallelNode` with v(0) = θ/2: current [T, N, …] → θ·spikes [T, N, …], with mean qcfs(mean current, θ, L = T).

    Source: Hao et al., ICML 2025 (parallel spiking calculation); formula as in the authors' ParaInfNeuron.
    """

    def __init__(self, threshold: Any) -> None:
        theta = positive(threshold)
        super().__init__(theta, ParallelNode(theta))
