"""The formulas of ANN-SNN conversion, on tensors.  Each lives here once; modules elsewhere only hold parameters.

Notation: θ threshold, L levels, T timesteps, v membrane potential; all currents, potentials and outputs in the same unit.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


def qcfs(x: Float[Tensor, "*shape"], threshold: Float[Tensor, ""], levels: int) -> Float[Tensor, "*shape"]:
    r"""Quantization clip-floor-shift: θ · clip(floor(L·x/θ + ½), 0, L) / L.

    Equals the mean output of a soft-reset integrate-and-fire neuron that receives the constant current `x` for
    T = `levels` timesteps from v(0) = θ/2.  Source: Bu et al., ICLR 2022 (QCFS activation).

    Gradient, straight through the floor, with q = y/θ:
    dy/dx = 1 on 0 ≤ x ≤ θ, else 0;  dy/dθ = q − x/θ on 0 ≤ x ≤ θ, 1 above, 0 below.

    Half-precision `x` is quantized in float32 and returned in its own dtype.
    """
    return _QCFS.apply(x, threshold, levels)


class _QCFS(torch.autograd.Function):
    """`qcfs` with its analytic gradient; keeps `x` and θ for the backward pass."""

    @staticmethod
    def forward(x: Tensor, threshold: Tensor, levels: int) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        steps = (wide * levels / threshold).add_(0.5).floor_().clamp_(0, levels)
        return (steps.div_(levels).mul_(threshold)).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        x, threshold, ctx.levels = inputs
        ctx.save_for_backward(x, threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, threshold = ctx.saved_tensors
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        inside = (wide >= 0) & (wide <= threshold)
        quantized = (wide * ctx.levels / threshold).add_(0.5).floor_().clamp_(0, ctx.levels).div_(ctx.levels)
        slope = torch.where(inside, quantized - wide / threshold, (wide > threshold).to(wide.dtype))
        grad_threshold = (grad.to(slope.dtype) * slope).sum().to(threshold.dtype).reshape(threshold.shape)
        return grad * inside, grad_threshold, None


def at_least(value: Tensor, minimum: float) -> Tensor:
    """max(`value`, `minimum`), with the gradient passed straight through so that a floored value can rise again."""
    return value + (value.clamp_min(minimum) - value).detach()


def clip(x: Float[Tensor, "*shape"], threshold: Float[Tensor, ""]) -> Float[Tensor, "*shape"]:
    """The L → ∞ limit of `qcfs`: min(max(x, 0), θ).  An SNN tends to the network of this activation as T grows."""
    return torch.minimum(x.clamp_min(0), threshold)


def spike_count(
    mean_current: Float[Tensor, "*shape"], threshold: Float[Tensor, ""], timesteps: int, v_initial: float = 0.5
) -> Float[Tensor, "*shape"]:
    """Spikes an IF neuron emits in T steps of *constant* current: clip(floor(T·x/θ + v(0)/θ), 0, T).

    `v_initial` is v(0) as a fraction of θ.  Where a current varies in time the neuron may emit more or fewer
    (`conversion_errors`, unevenness).
    """
    return (mean_current * timesteps / threshold + v_initial).floor().clamp(0, timesteps)


class ConversionErrors(NamedTuple):
    """Parts of relu(z) − output, each shaped like z, in the unit of z; their sum is the whole."""

    clipping: Tensor
    quantization: Tensor
    unevenness: Tensor


def conversion_errors(
    current: Float[Tensor, "T *shape"], output: Float[Tensor, "T *shape"], threshold: Float[Tensor, ""]
) -> ConversionErrors:
    """Why a layer's mean output differs from relu of its mean current: the three errors of Bu et al., ICLR 2022.

    clipping      relu(z) − min(relu(z), θ)                 the part above the threshold
    quantization  min(relu(z), θ) − qcfs(z, θ, L = T)       the part between two spike counts
    unevenness    qcfs(z, θ, L = T) − mean output           spikes that timing added or removed

    where z is the mean of `current` over T.  `output` is θ·spikes.
    """
    z, levels = current.mean(0), current.shape[0]
    even, clipped = qcfs(z, threshold, levels), clip(z, threshold)
    return ConversionErrors(z.clamp_min(0) - clipped, clipped - even, even - output.mean(0))
