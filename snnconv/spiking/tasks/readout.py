"""Readouts: the output at t of a spiking network, from the outputs of its steps."""

import torch
from jaxtyping import Float
from torch import Tensor

LEAK = 4.0  # time constant of the readout "membrane", in steps


def running_mean(outputs: Float[Tensor, "T N *K"], readout_from: int = 1) -> Float[Tensor, "T N *K"]:
    """Mean outputs from step `readout_from` up to each step; before `readout_from`, the outputs of the step itself."""
    early, counted = outputs[: readout_from - 1].double(), outputs[readout_from - 1 :].double().cumsum(0)
    steps = torch.arange(1, len(counted) + 1, device=outputs.device).view(-1, *[1] * (outputs.dim() - 1))
    return torch.cat([early, counted / steps])


def membrane(outputs: Float[Tensor, "T N *K"], readout_from: int = 1) -> Float[Tensor, "T N *K"]:
    """Potential of a leaky integrator, divided by that of a constant input of 1; early steps are forgotten."""
    potential, potentials = torch.zeros_like(outputs[0], dtype=torch.float64), []
    for t, output in enumerate(outputs.double(), 1):
        potential = potential + (output - potential) / LEAK
        potentials.append(potential / (1 - (1 - 1 / LEAK) ** t))
    return torch.stack(potentials)


def last(outputs: Float[Tensor, "T N *K"], readout_from: int = 1) -> Float[Tensor, "T N *K"]:
    """The outputs of each step alone."""
    return outputs.double()


READOUTS = {"mean": running_mean, "membrane": membrane, "last": last}
