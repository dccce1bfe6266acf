"""Rate code: a spike with probability r at every step (a Bernoulli process, which the field calls Poisson)."""

import torch
from torch import Tensor

from snnconv.runtime.seed import derive
from snnconv.spiking.encoders.base import SpikeCode


class Poisson(SpikeCode):
    """Spikes with probability r, independent of each other.  The draws of a step depend on `seed`, step and shape alone."""

    name = "poisson"

    def __init__(self, seed: int = 0, low: float | None = None, high: float | None = None) -> None:
        super().__init__(low, high)
        self.seed = seed

    def spikes(self, fraction: Tensor, t: int) -> Tensor:
        """0 or 1."""
        generator = torch.Generator(fraction.device).manual_seed(derive(self.seed, t))
        return (torch.rand(fraction.shape, generator=generator, device=fraction.device) < fraction).to(fraction.dtype)
