"""A neuron that waits for all its inputs and then emits its spikes first, in closed form."""

from typing import Any

import torch

from snnconv.neurons.base import Neuron, Node, positive


class ParallelNode(Node):
    """s_t = 1[(T·mean current + v(0))/t ≥ θ] for t = 1…T: the spikes of all T steps of a call, computed side by side.

    Their number is clip(⌊(Σ current + v(0))/θ⌋, 0, T), however unevenly the current came; all of them are at the beginning.
    """

    def supported_step_mode(self) -> tuple[str, ...]:
        """Several steps at once: each spike depends on all inputs."""
        return ("m",)

    def multi_step_functional_forward(self, inputs: tuple, states: tuple, **kwargs: Any) -> tuple:
        """Spikes [T, N, …], and what is left of v(0) + Σ current."""
        (current,), (v,) = inputs, states
        charged, threshold = v + current.sum(0, dtype=v.dtype), self.threshold(v)
        t = torch.arange(1, len(current) + 1, device=v.device, dtype=v.dtype).view(-1, *[1] * v.dim())
        spikes = (charged >= t * threshold).to(v.dtype)
        return (spikes.to(current.dtype),), (charged - threshold * spikes.sum(0),)


class Parallel(Neuron):
    """A `ParallelNode` with v(0) = θ/2: current [T, N, …] → θ·spikes [T, N, …], with mean qcfs(mean current, θ, L = T).

    Source: Hao et al., ICML 2025 (parallel spiking calculation); formula as in the authors' ParaInfNeuron.
    """

    def __init__(self, threshold: Any) -> None:
        theta = positive(threshold)
        super().__init__(theta, ParallelNode(theta))
