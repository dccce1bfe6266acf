"""QCFS with noise in training that has the size of the conversion error."""

import torch
from jaxtyping import Float
from torch import Tensor

from snnconv.nn.activations.qcfs import QCFS


class NoisyQCFS(QCFS):
    """In training qcfs(x, θ, L) − σ·ε, with ε ~ N(0, 1) for every element; in evaluation QCFS.

    σ, in the unit of x, is the standard deviation of (activation − mean output of its spiking neuron after T = `timesteps`).
    Training measures it on held-out images before each epoch (`training.activation_noise.measure_noise`); with
    `timesteps=None` it is always `noise`.  The gradient is that of QCFS.  σ is part of the training state and is not stored with
    the weights.  Source: noisy quantization (IEEE TNNLS), whose code measures at T = 4.
    """

    sigma: Tensor

    def __init__(
        self, levels: int = 8, threshold: float | None = None, timesteps: int | None = 4, noise: float = 0.0
    ) -> None:
        super().__init__(levels, threshold)
        if timesteps is not None and (type(timesteps) is not int or timesteps < 1):
            raise ValueError(f"timesteps={timesteps!r}: must be null or an integer of at least 1")
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise={noise!r}: a standard deviation of at least 0")
        self.timesteps = timesteps
        self.register_buffer("sigma", torch.tensor(float(noise)), persistent=False)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """qcfs(x, θ, L), with noise in training."""
        output = super().forward(x)
        return output - self.sigma * torch.randn_like(output) if self.training else output
