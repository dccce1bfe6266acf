"""Rate code: a spike with probability r at every step (a Bernoulli process, usually called Poisson encoding)."""

import torch
from torch import Tensor

from snnconv.runtime.seed import derive
from snnconv.spiking.encoders.base import Range, SpikeCode


class Poisson(SpikeCode):
    """Independent spikes with probability r.  The random numbers of a step depend only on `seed`, step and shape."""

    name = "poisson"

    def __init__(self, seed: int = 0, low: Range = None, high: Range = None) -> None:
        super().__init__(low, high)
        self.seed = seed

    def spikes(self, fraction: Tensor, t: int) -> Tensor:
        """0 or 1."""
        generator = torch.Generator(fraction.device).manual_seed(derive(self.seed, t))
        return (torch.rand(fraction.shape, generator=generator, device=fraction.device) < fraction).to(fraction.dtype)
