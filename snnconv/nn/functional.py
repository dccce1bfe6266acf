"""Formulas of ANN-SNN conversion on tensors.  Each is defined only here; modules hold the parameters.

Notation: θ threshold, L levels, T timesteps, v membrane potential.  Currents, potentials and outputs have the same unit.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from snnconv.nn.kernels import fused
from snnconv.nn.recompute import RecomputedOutputs

SMALLEST_THRESHOLD = 1e-3  # far below any useful θ, far above what float32 rounding could turn negative


def qcfs(x: Float[Tensor, "*shape"], threshold: Float[Tensor, "..."], levels: int) -> Float[Tensor, "*shape"]:
    r"""Quantization clip-floor-shift: θ · clip(floor(L·x/θ + ½), 0, L) / L, for one θ, or several that broadcast to `x`.

    Equals the mean output of a soft-reset integrate-and-fire neuron that receives the constant current `x` for
    T = `levels` timesteps from v(0) = θ/2.  Source: Bu et al., ICLR 2022 (QCFS activation).

    Gradient, straight through the floor, with q = y/θ:
    dy/dx = 1 on 0 ≤ x ≤ θ, else 0;  dy/dθ = q − x/θ on 0 ≤ x ≤ θ, 1 above, 0 below.

    Half-precision `x` is quantized in float32 and returned in its own dtype.
    """
    output = _QCFS.apply(x, threshold, levels)
    if not torch.compiler.is_compiling():
        x, threshold = x.detach(), threshold.detach()
        RecomputedOutputs.offer(output, lambda: _quantize(x, threshold, levels))
    return output


def qcfs_floor_first(x: Float[Tensor, "*shape"], threshold: Float[Tensor, ""], levels: int) -> Float[Tensor, "*shape"]:
    """`qcfs` with the gradient of clip after floor: θ · clip(floor(L·x/θ + ½)/L, 0, 1), straight through the floor.

    With q = y/θ: dy/dx = 1 and dy/dθ = q − x/θ on −θ/2L ≤ x < θ + θ/2L, where floor(L·x/θ + ½) lies in 0…L; outside, dy/dx = 0,
    and dy/dθ = 1 above and 0 below.  Source: putshua/SNN_conversion_QCFS, modules.py (MyFloor).
    """
    steps = _wide(x) * levels / threshold + 0.5
    level = steps.detach().floor()
    inside = (level >= 0) & (level <= levels)  # explicit, because versions of torch differ at the bounds of clamp
    steps = torch.where(inside, steps + (level - steps).detach(), level.clamp(0, levels))
    return (threshold * (steps / levels)).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """`x` in float32 if it is in half precision: the index of a level must not be rounded."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@fused
def _quantize(x: Tensor, threshold: Tensor, levels: int) -> Tensor:
    steps = (_wide(x) * levels / threshold + 0.5).floor().clamp(0, levels)
    return (threshold * (steps / levels)).to(x.dtype)


@fused
def _quantize_backward(grad: Tensor, x: Tensor, threshold: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """dy/dx · grad for every element, and Σ dy/dθ · grad for every θ."""
    wide = _wide(x)
    inside = (wide >= 0) & (wide <= threshold)
    quantized = (wide * levels / threshold + 0.5).floor().clamp(0, levels) / levels
    slope = torch.where(inside, quantized - wide / threshold, (wide > threshold).to(wide.dtype))
    of_threshold = _wide(grad) * slope
    of_threshold = of_threshold.sum_to_size(threshold.shape) if threshold.dim() else of_threshold.sum()
    return torch.where(inside, grad, torch.zeros_like(grad)), of_threshold


class _QCFS(torch.autograd.Function):
    """`qcfs` with its analytic gradient; saves its input, as ReLU saves its output."""

    @staticmethod
    def forward(x: Tensor, threshold: Tensor, levels: int) -> Tensor:
        return _quantize(x, threshold, levels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        x, threshold, ctx.levels = inputs
        ctx.save_for_backward(x, threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, threshold = ctx.saved_tensors
        grad_x, grad_threshold = _quantize_backward(grad, x, threshold, ctx.levels)
        return grad_x, grad_threshold.to(threshold.dtype).reshape(threshold.shape), None


def closest_threshold(samples: Float[Tensor, " M"], levels: int, candidates: int = 100) -> Float[Tensor, ""]:
    """The θ that minimizes Σ (z − qcfs(z, θ, L))² over ReLU outputs z (`samples`), among k/`candidates` of the largest z."""
    grid = samples.max() * torch.arange(1, candidates + 1, device=samples.device) / candidates
    errors = [(samples - qcfs(samples, threshold, levels)).double().square().sum() for threshold in grid]
    return grid[int(torch.stack(errors).argmin())]


def positive_threshold(theta: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """θ of a trained parameter `theta`: at least SMALLEST_THRESHOLD, also after a large step of an optimizer."""
    return at_least(theta, SMALLEST_THRESHOLD)


def inverse_softplus(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """p with softplus(p) = `value` > 0."""
    return value + torch.log(-torch.expm1(-value))


def at_least(value: Tensor, minimum: float) -> Tensor:
    """max(`value`, `minimum`) with a straight-through gradient, so that a value below the minimum can increase again."""
    return value + (value.clamp_min(minimum) - value).detach()


def clip(x: Float[Tensor, "*shape"], threshold: Float[Tensor, ""]) -> Float[Tensor, "*shape"]:
    """min(max(x, 0), θ): the limit of `qcfs` for L → ∞, and of a spiking network for T → ∞."""
    return torch.minimum(x.clamp_min(0), threshold)


@fused
def integrate_fire(
    current: Float[Tensor, "*shape"],
    v: Float[Tensor, "*shape"],
    threshold: Float[Tensor, "..."],
    amplitude: Float[Tensor, ""] | None = None,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """One timestep of a soft-reset IF neuron: (spikes, next v) with spikes = 1[v + x ≥ θ], v ← v + x − θ·spikes.

    Spikes have the dtype of `current` and are multiplied by `amplitude` if it is given; the potential keeps its dtype.
    """
    charged = v + current
    spikes = (charged >= threshold).to(charged.dtype)
    emitted = spikes.to(current.dtype)
    return emitted if amplitude is None else amplitude * emitted, charged - threshold * spikes


def spike_count(
    mean_current: Float[Tensor, "*shape"],
    threshold: Float[Tensor, "..."] | float,
    timesteps: int,
    v_initial: float = 0.5,
) -> Float[Tensor, "*shape"]:
    """Spikes an IF neuron emits in T steps of *constant* current: clip(floor(T·x/θ + v(0)/θ), 0, T).

    `v_initial` is v(0) as a fraction of θ.  For a current that varies over time the number may be larger or smaller
    (`conversion_errors`, unevenness).
    """
    return (mean_current * timesteps / threshold + v_initial).floor().clamp(0, timesteps)


class ConversionErrors(NamedTuple):
    """Parts of a − output, each shaped like the activation a and in its unit; their sum is the whole."""

    clipping: Tensor
    quantization: Tensor
    propagated: Tensor
    unevenness: Tensor


def conversion_errors(
    activation: Tensor,
    ceiling: Tensor | float,
    meant: Tensor,
    even: Tensor,
    output: Tensor,
    floor: Tensor | float = -math.inf,
) -> ConversionErrors:
    """The parts of the difference between the ANN's activation and a layer's mean output over T steps.

    clipping      a − clip(a)    the part above the neuron's largest mean output, `ceiling` (θ for binary spikes), or below `floor`
    quantization  clip(a) − f(z)             rounding to an integer number of spikes in T steps; for an a with L levels, L → T
    propagated    f(z) − f(x̄)                difference of the mean current from the ANN: earlier layers, or changed weights
    unevenness    f(x̄) − output              spikes added or removed by the timing of the inputs

    f(x) is the mean output of the neuron for the constant current x (`meant` = f(z), z the ANN's current; `even` = f(x̄)).
    These are the three errors of Bu et al., ICLR 2022, and the error of earlier layers.
    """
    if isinstance(floor, Tensor) or isinstance(ceiling, Tensor):
        floor, ceiling = (torch.as_tensor(limit).to(activation) for limit in (floor, ceiling))
    clipped = activation.clamp(floor, ceiling)  # type: ignore[arg-type]  # two numbers are faster than two tensors
    return ConversionErrors(activation - clipped, clipped - meant, meant - even, even - output)
