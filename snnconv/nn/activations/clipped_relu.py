"""The rectifier with a ceiling that is learned."""

from jaxtyping import Float
from torch import Tensor

from snnconv.nn import functional
from snnconv.nn.activations.qcfs import QCFS


class ClippedReLU(QCFS):
    """min(max(x, 0), θ), the L → ∞ limit of QCFS, which is what a spiking network tends to as T grows.

    dy/dx = 1 on 0 < x < θ, dy/dθ = 1 above.  `levels` quantizes nothing here: calibration and reports are told it.  Source: Ho
    & Chang, DAC 2021 (TCL).
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """clip(x, 0, θ)."""
        return functional.clip(x, self.threshold)
