"""QCFS: a quantized activation whose values an integrate-and-fire neuron reproduces."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.nn import functional
from snnconv.nn.activations.first_batch import start_at_first_batch
from snnconv.nn.kernels import one_call


@one_call("qcfs(Tensor x, Tensor theta, int levels) -> Tensor")
def _qcfs(x: Tensor, theta: Tensor, levels: int) -> Tensor:
    return functional.qcfs(x, functional.positive_threshold(theta), levels)


class QCFS(nn.Module):
    """Quantization clip-floor-shift with one learnable threshold (`functional.qcfs`; Bu et al., ICLR 2022).

    `levels` (L ≥ 1) is the number of steps above zero, `threshold` (θ > 0) the initial value of θ.  If it is None, θ is NaN until
    the first forward pass, which sets it to the θ of smallest squared error between ReLU and its quantization on that batch;
    `calibrate` or a loaded state dict can set it as well.  The parameter is θ itself, so weight decay acts on θ as in the paper; a
    lower limit keeps it positive.  `torch.export` records each call as one `torch.ops.snnconv.qcfs(x, theta, levels)`, and the
    other activations of this package in the same way.
    """

    def __init__(self, levels: int = 8, threshold: float | None = None) -> None:
        super().__init__()
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
            raise ValueError(f"levels={levels!r}: must be an integer of at least 1 (quantization levels)")
        self.levels = levels
        self.theta = nn.Parameter(torch.full((), torch.nan))
        if threshold is None:
            start_at_first_batch(self)
        else:
            self.set_threshold(threshold)

    @property
    def threshold(self) -> Float[Tensor, ""]:
        """θ, positive."""
        return functional.positive_threshold(self.theta)

    @torch.no_grad()
    def set_threshold(self, value: float) -> None:
        """Set θ; ValueError unless positive and finite."""
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"threshold={value!r}: must be a positive number")
        self.theta.fill_(value)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """qcfs(x, θ, L)."""
        return _qcfs(x, self.theta, self.levels)

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        theta = self.threshold.item()
        return f"levels={self.levels}, threshold={'not known yet' if math.isnan(theta) else f'{theta:.4g}'}"
