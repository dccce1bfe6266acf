"""Networks without some kinds of conversion error: the ANN with clipped activations, and neurons with even currents."""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from spikingjelly.activation_based import functional as sj
from torch import Tensor, nn

from snnconv.nn.functional import spike_count
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.base import Threshold, per_channel
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


def clipped(ann: nn.Module, snn: SpikingModel, images: Tensor) -> Tensor:
    """Logits of the ANN whose activations are limited to the output range of the neurons."""

    def limited(neuron: nn.Module) -> Callable[..., Tensor]:
        return lambda module, inputs, output: output.clamp(*limits(neuron, output, snn.latency.spike_levels, axis=1))

    with ExitStack() as stack:
        for path, neuron in snn.neurons().items():
            stack.callback(ann.get_submodule(path).register_forward_hook(limited(neuron)).remove)
        return ann(images)


def instead(snn: SpikingModel, neurons: Sequence[nn.Module], images: Tensor) -> Tensor:
    """Outputs of the spiking network in which `neurons`, functions of means, take the place of its neurons."""
    clocks = [module for module in snn.network.modules() if isinstance(module, OverTime)]
    with ExitStack() as stack:
        for clock, neuron in zip(clocks, neurons, strict=True):
            stack.callback(setattr, clock, "neuron", clock.neuron)
            clock.neuron = neuron
        return snn.means(images)


class Clipped(nn.Module):
    """The output of `neuron` without quantization: its current, clipped to the range of spikes with up to `most` levels."""

    def __init__(self, neuron: Any, most: int) -> None:
        super().__init__()
        self.neuron, self.most = neuron, most

    def forward(self, current: Float[Tensor, "T N *shape"]) -> Float[Tensor, "T N *shape"]:
        """The clipped current, in the unit of the neuron's output."""
        return current.clamp(*limits(self.neuron, current, self.most, axis=2)) / unit(self.neuron, current, axis=2)


class Even(nn.Module):
    """Mean output of a neuron of `model` over T counted steps with the same current in each."""

    def __init__(self, neuron: nn.Module, model: SpikingModel, timesteps: int) -> None:
        super().__init__()
        self.neuron, self.timesteps, self.discard = copy.deepcopy(neuron), timesteps, model.timing.discard
        self.steps, self.together = model.steps(timesteps), model.timing.lookahead != 1
        sj.set_step_mode(self.neuron, "m" if self.together else "s")

    def forward(self, current: Float[Tensor, "1 N *shape"]) -> Float[Tensor, "1 N *shape"]:
        """The mean output, from the initial state."""
        sj.reset_net(self.neuron)
        mean = self._mean(current).to(current.dtype)
        sj.reset_net(self.neuron)  # its state is as large as the layer
        return mean

    def _mean(self, current: Tensor) -> Tensor:
        if self.together:
            every = self.neuron(current.expand(self.steps, *current.shape[1:]))
            return every[self.discard : self.discard + self.timesteps].mean(0, keepdim=True)
        for _ in range(self.discard):
            self.neuron(current)
        total = torch.zeros_like(current, dtype=torch.promote_types(current.dtype, torch.float32))  # no sums in bf16
        for _ in range(self.timesteps):
            total += self.neuron(current)
        return total / self.timesteps


class Counted(nn.Module):
    """`Even` for a plain integrate-and-fire neuron, in closed form (`functional.spike_count`); equal up to rounding."""

    def __init__(self, neuron: Any, timesteps: int) -> None:
        super().__init__()
        self.neuron, self.timesteps = neuron, timesteps

    def forward(self, current: Float[Tensor, "1 N *shape"]) -> Float[Tensor, "1 N *shape"]:
        """The mean output."""
        neuron = self.neuron
        theta, amplitude = (
            per_channel(torch.as_tensor(x, dtype=current.dtype, device=current.device), current, axis=2)
            for x in (neuron.threshold, neuron.amplitude)
        )
        return amplitude * spike_count(current, theta, self.timesteps, neuron.v_initial) / self.timesteps


def evenly(neuron: Any, model: SpikingModel, timesteps: int) -> nn.Module:
    """The replacement of `neuron` in the network of even currents."""
    return Counted(neuron, timesteps) if has_closed_form(neuron, model) else Even(neuron, model, timesteps)


def has_closed_form(neuron: Any, model: SpikingModel) -> bool:
    """Whether `neuron` is a plain integrate-and-fire neuron with 0 ≤ v(0) ≤ θ, whose steps are all counted.

    For other v(0), a spike for each θ of charge may be missing or early: a step emits at most one, and none is taken back.
    """
    plain = type(neuron) is IntegrateFire and not isinstance(neuron.v_initial, Tensor) and 0 <= neuron.v_initial <= 1
    return plain and model.timing.discard == 0 and model.timing.lookahead == 1 and model.simulation.precision != "bf16"


def unit(neuron: Any, like: Tensor, axis: int) -> Tensor | float:
    """The factor of the output that was folded into the next weights (`folding.fold_amplitudes`)."""
    if not hasattr(neuron, "amplitude"):
        return 1.0
    value, amplitude = (torch.as_tensor(x, dtype=torch.float64) for x in (value_of(neuron), neuron.amplitude))
    return per_channel((value / amplitude).to(like), like, axis)


def value_of(neuron: Any) -> Threshold:
    """The amplitude of a spike, folded or not; θ for a neuron without `amplitude`."""
    return getattr(neuron, "value", neuron.threshold)


def limits(neuron: Any, like: Tensor, most: int, axis: int) -> tuple[Tensor, Tensor]:
    """The smallest and the largest mean output of a neuron, for spikes of up to `most` levels, shaped as the channels of `like`."""
    low, high = (per_channel(torch.as_tensor(limit).to(like), like, axis) for limit in outermost(neuron, most))
    return low, high


def outermost(neuron: Any, most: int) -> tuple[Threshold, Threshold]:
    """The smallest and the largest mean output of a neuron, for spikes of up to `most` levels."""
    return neuron.limits(most) if hasattr(neuron, "limits") else (0.0, most * neuron.threshold)
