"""The rectifier with a learned upper bound."""

from jaxtyping import Float
from torch import Tensor

from snnconv.nn import functional
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.kernels import one_call


@one_call("clipped_relu(Tensor x, Tensor theta) -> Tensor")
def _clipped_relu(x: Tensor, theta: Tensor) -> Tensor:
    return functional.clip(x, functional.positive_threshold(theta))


class ClippedReLU(QCFS):
    """min(max(x, 0), θ): the limit of QCFS for L → ∞, and of a spiking network for T → ∞.

    dy/dx = 1 on 0 < x < θ, dy/dθ = 1 above.  `levels` has no effect on the output; calibration and reports use it.
    Source: Ho & Chang, DAC 2021 (TCL).
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """clip(x, 0, θ)."""
        return _clipped_relu(x, self.theta)
