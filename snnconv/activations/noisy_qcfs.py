"""QCFS that trains under the noise that conversion will bring."""

import torch
from jaxtyping import Float
from torch import Tensor

from snnconv.activations.qcfs import QCFS


class NoisyQCFS(QCFS):
    """qcfs(x, θ, L) − σ·ε with ε ~ N(0, 1) drawn for every element, in training; in evaluation it is QCFS.

    `noise` is σ, in the unit of x: what the layer's mean output will lack of its activation once it spikes.  The gradient is
    that of QCFS.  σ is no part of the stored weights, since it belongs to a moment of training.  Source: noisy quantization
    (IEEE TNNLS), where σ is estimated anew in each epoch, layer by layer, from a converted copy of the network.
    """

    sigma: Tensor

    def __init__(self, levels: int, threshold: float = 8.0, noise: float = 0.0) -> None:
        super().__init__(levels, threshold)
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise={noise!r}: a standard deviation of at least 0")
        self.register_buffer("sigma", torch.tensor(float(noise)), persistent=False)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """qcfs(x, θ, L), with noise in training."""
        output = super().forward(x)
        return output - self.sigma * torch.randn_like(output) if self.training else output
