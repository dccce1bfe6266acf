"""Base class of operators, and the module that gives an operator its time axis."""

from abc import abstractmethod
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from spikingjelly.activation_based import base
from torch import Tensor, nn

from snnconv.nn.graph.trace import Operation


class Operator(base.MemoryModule):
    """A function F of one or several signals, computed step by step from signals that change over time.

    Subclasses define `step(*signals) -> output` for one timestep and store their state in SpikingJelly memories, whose first
    dimension is the batch (or which are one number for all samples); `functional.reset_net` resets them.  In step mode "m" signals
    are [T, N, …], in "s" [N, …]; both modes have the same results.

    function      F as a module; the output of a sample must not depend on other samples.
    emits_spikes  True if the output is a spike train whenever the input is one, so that the next layers remain spike-driven.
    """

    emits_spikes = False

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function, self.step_mode = function, "m"

    @abstractmethod
    def step(self, *signals: Tensor) -> Tensor:
        """Output of the next timestep."""

    def single_step_forward(self, *signals: Tensor) -> Tensor:
        """One timestep."""
        return self.step(*signals)

    def multi_step_forward(self, *signals: Tensor) -> Tensor:
        """All timesteps of [T, N, …]."""
        steps = [self.step(*step) for step in zip(*signals, strict=True)]
        return steps[0].unsqueeze(0) if len(steps) == 1 else torch.stack(steps)

    def evaluate(self, *signals: Tensor) -> Tensor:
        """F in the precision of `signals`, without autocast; its parameters are converted if the network has another precision.

        Operators take differences of large sums, so rounding of F would grow with the number of steps.
        """
        device, dtype = signals[0].device.type, signals[0].dtype
        parameters = dict(self.function.named_parameters())
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            if all(parameter.dtype == dtype for parameter in parameters.values()):
                return self.function(*signals)
            converted = {name: parameter.to(dtype) for name, parameter in parameters.items()}
            return torch.func.functional_call(self.function, converted, signals)

    def summed(self, name: str, signal: Tensor) -> Tensor:
        """The sum over time stored in memory `name`, plus `signal`; float32, or float64 for float64 signals."""
        total = getattr(self, name)
        wide = signal.to(torch.promote_types(signal.dtype, torch.float32))
        return wide if total is None or total.shape != wide.shape else total.to(wide) + wide

    def summary(self) -> str:
        """A line for the table of `check`."""
        return f"{type(self).__name__} operator"

    def extra_repr(self) -> str:
        """Shown by print(network), next to the function."""
        return ""


class OperatorOverTime(Operation):
    """Wraps an operator and restores its time axis: each signal [T·N, …] → [T, N, …] → operator → [T·N, …].

    If `timesteps` is None there is no time axis: signals are means over time, and the output is F of the means.
    """

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.operator = operator
        self.timesteps: int | None = 1

    def forward(self, *signals: Float[Tensor, "TN *_"]) -> Float[Tensor, "TN *_"]:
        """Outputs of T = `timesteps` consecutive steps."""
        if self.timesteps is None:
            return self.operator.evaluate(*signals)
        if self.operator.step_mode == "s" and self.timesteps == 1:
            return self.operator(*signals)
        parts = [signal.unflatten(0, (self.timesteps, -1)) for signal in signals]
        if self.operator.step_mode == "m":
            return self.operator(*parts).flatten(0, 1)
        return torch.cat([self.operator(*step) for step in zip(*parts, strict=True)])


def set_timesteps(network: nn.Module, timesteps: int | None) -> None:
    """Reset the operators of `network`; each following call has T = `timesteps` steps, or means over time (None)."""
    for module in network.modules():
        if isinstance(module, OperatorOverTime):
            module.operator.reset()
            module.timesteps = timesteps


class Site(Operation):
    """A non-linear layer of the ANN, with the operator that will replace it; computes F, without time."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, *signals: Any) -> Any:
        """F of the signals."""
        return self.operator.function(*signals)


class Encoder(Operation):
    """Marks a signal of the ANN that a signed neuron encodes as spikes in the spiking network; computes the identity."""

    def forward(self, x: Tensor) -> Tensor:
        """The input."""
        return x
