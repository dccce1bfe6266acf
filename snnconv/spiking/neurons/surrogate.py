"""Trainable integrate-and-fire neuron: spikes in the forward pass, a surrogate gradient in the backward pass."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from spikingjelly.activation_based import surrogate as spikingjelly
from torch import Tensor, nn

from snnconv.nn.functional import SMALLEST_THRESHOLD, at_least
from snnconv.nn.kernels import fused
from snnconv.nn.recompute import RecomputedOutputs
from snnconv.spiking.neurons.base import per_channel
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

Slope = Callable[
    [Tensor, Tensor, float], Any
]  # gradient, distance to the threshold in units of θ, sharpness → gradient
SURROGATES: dict[str, Slope] = {
    name.removesuffix("_backward"): function
    for name, function in vars(spikingjelly).items()
    if name.endswith("_backward") and list(inspect.signature(function).parameters) == ["grad_output", "x", "alpha"]
}  # SpikingJelly's surrogate gradients of one sharpness, by name: atan, sigmoid, rect, …


def surrogate_slope(name: str) -> Slope:
    """SpikingJelly's surrogate of this name; ValueError listing all names if there is none."""
    if name not in SURROGATES:
        raise ValueError(f"method.surrogate={name!r}: must be one of {', '.join(sorted(SURROGATES))}")
    return SURROGATES[name]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


@fused(over_time=True)
def spikes_over_time(
    current: Float[Tensor, "T *shape"], threshold: Tensor, v_initial: Tensor
) -> Float[Tensor, "T *shape"]:
    """θ·spikes of T steps of a soft-reset IF neuron from v(0) = `v_initial`: spike = 1[v + x ≥ θ], v ← v + x − θ·spike."""
    v, outputs = v_initial, []
    for step in current:
        charged = v + _wide(step)
        output = threshold * (charged >= threshold).to(charged.dtype)
        v = charged - output
        outputs.append(output.to(current.dtype))
    return torch.stack(outputs)


@fused(over_time=True)
def spikes_over_time_backward(
    grad: Float[Tensor, "T *shape"],
    current: Float[Tensor, "T *shape"],
    threshold: Tensor,
    v_initial: Tensor,
    slope: Slope,
    sharpness: float,
    detach_reset: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of current, θ and v(0); the potentials are recomputed.

    With h = v + x, y = θ·spike and ρ = surrogate slope at h/θ − 1:  dy/dh = ρ,  dy/dθ = spike − ρ·h/θ,  dv/d· = dh/d· − dy/d·.
    With `detach_reset` the spike in the y that is subtracted from v is a constant.
    """
    v, charged = v_initial, []
    for step in current:
        charged.append(v + _wide(step))
        v = charged[-1] - threshold * (charged[-1] >= threshold).to(charged[-1].dtype)
    of_v, of_threshold, of_current = torch.zeros_like(charged[0]), torch.zeros_like(charged[0]), []
    for h, of_output in zip(reversed(charged), reversed(grad.unbind()), strict=True):
        spike, of_output = (h >= threshold).to(h.dtype), _wide(of_output)
        smooth = slope(of_output if detach_reset else of_output - of_v, h / threshold - 1, sharpness)[0]
        of_threshold = of_threshold + (of_output - of_v) * spike - smooth * (h / threshold)
        of_v = of_v + smooth
        of_current.append(of_v.to(current.dtype))
    return torch.stack(of_current[::-1]), of_threshold.sum_to_size(threshold.shape), of_v.sum_to_size(v_initial.shape)


class _Spikes(torch.autograd.Function):
    """`spikes_over_time` for [T·N, …]; saves only its input for the backward pass."""

    @staticmethod
    def forward(
        current: Tensor, threshold: Tensor, v_initial: Tensor, timesteps: int, slope: Slope, *settings: Any
    ) -> Tensor:
        return _spikes(current, threshold, v_initial, timesteps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.timesteps, ctx.slope, ctx.sharpness, ctx.detach_reset = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        current, threshold, v_initial = ctx.saved_tensors
        of_current, *of_rest = spikes_over_time_backward(
            grad.unflatten(0, (ctx.timesteps, -1)), current.unflatten(0, (ctx.timesteps, -1)), threshold, v_initial,
            ctx.slope, ctx.sharpness, ctx.detach_reset,
        )  # fmt: skip
        return of_current.flatten(0, 1), *of_rest, None, None, None, None


def _spikes(current: Tensor, threshold: Tensor, v_initial: Tensor, timesteps: int) -> Tensor:
    return spikes_over_time(current.unflatten(0, (timesteps, -1)), threshold, v_initial).flatten(0, 1)


class SurrogateIntegrateFire(nn.Module):
    """Trainable copy of `neuron` with the same output: current [T·N, …] → θ·spikes [T·N, …] for T = `timesteps`.

    θ is a positive parameter; v(0) remains the same fraction of it.  In the backward pass, SpikingJelly's `slope` at h/θ − 1
    replaces the derivative of the step function, so the width of the slope is proportional to θ.
    """

    v_initial: Tensor

    def __init__(self, neuron: IntegrateFire, slope: Slope, sharpness: float, detach_reset: bool, frozen: bool) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.as_tensor(neuron.threshold, dtype=torch.float32), requires_grad=not frozen)
        self.register_buffer("v_initial", torch.as_tensor(neuron.v_initial, dtype=torch.float64))
        self.slope, self.sharpness, self.detach_reset = slope, sharpness, detach_reset
        self.timesteps = 1

    @property
    def threshold(self) -> Tensor:
        """θ, or [C], positive."""
        return at_least(self.theta, SMALLEST_THRESHOLD)

    def forward(self, current: Float[Tensor, "TN *shape"]) -> Float[Tensor, "TN *shape"]:
        """θ·spikes for T = `timesteps` consecutive steps from v(0)."""
        dtype = torch.float64 if current.dtype == torch.float64 else torch.float32
        theta = per_channel(self.threshold, current)
        v_initial = (self.v_initial * theta.double()).to(dtype)
        theta = theta.to(dtype)
        output = _Spikes.apply(current, theta, v_initial, self.timesteps, self.slope, self.sharpness, self.detach_reset)
        if not torch.compiler.is_compiling():
            current, theta, v_initial, timesteps = current.detach(), theta.detach(), v_initial.detach(), self.timesteps
            RecomputedOutputs.offer(output, lambda: _spikes(current, theta, v_initial, timesteps))
        return output

    def trained(self) -> IntegrateFire:
        """A plain neuron with the trained thresholds."""
        theta, v_initial = self.threshold.detach().cpu(), self.v_initial.cpu()
        return IntegrateFire(theta if theta.dim() else theta.item(), v_initial if v_initial.dim() else v_initial.item())
