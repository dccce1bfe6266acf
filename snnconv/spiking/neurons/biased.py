"""Integrate-and-fire with a calibrated bias, constant or different in every step."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from snnconv.nn import functional
from snnconv.spiking.neurons.base import Neuron, per_channel, positive
from snnconv.spiking.neurons.integrate_fire import VariedIntegrateFireNode
from snnconv.spiking.neurons.no_debt import without_debt


class BiasedNode(VariedIntegrateFireNode):
    """v += x + b(t);  spike = 1[v ≥ θ];  v −= θ·spike.  b [T, C] has one row for each step; later steps use the last row."""

    scalars = ("step",)
    constants: tuple[str, ...] = ("v_initial", "bias")

    def __init__(
        self, threshold: Any, bias: Float[Tensor, "T C"], v_initial: float | Tensor = 0.5, **states: float
    ) -> None:
        super().__init__(threshold, v_initial, step=0.0, **states)
        self.bias = bias.double()  # a plain attribute, as θ, so rounding the weights does not change it

    def materialize_states(self, inputs: tuple, states: tuple, step_mode: str) -> tuple:
        """States as in `Node`; moves the bias to the device of the current."""
        self.bias = self.bias.to(inputs[0].device)
        return super().materialize_states(inputs, states, step_mode)

    def fire(self, current: Tensor, v: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Spikes (0 or 1), v, and the number of steps so far."""
        row = self.bias.index_select(0, step.long().clamp_max(len(self.bias) - 1).view(1))
        spikes, v = functional.integrate_fire(current, v + per_channel(row[0].to(v.dtype), v), self.threshold(v))
        return spikes, v, step + 1


class NoDebtBiasedNode(BiasedNode):
    """`BiasedNode` with v = max(v, 0) until the first spike."""

    constants = ("v_initial", "bias", "no_debt")
    no_debt = True

    def __init__(self, threshold: Any, bias: Float[Tensor, "T C"], v_initial: float | Tensor = 0.5) -> None:
        super().__init__(threshold, bias, v_initial, fired=0.0)

    def fire(self, current: Tensor, v: Tensor, step: Tensor, fired: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Spikes (0 or 1), v, the number of steps so far, and 1 where the neuron has fired."""
        spikes, v, step = super().fire(current, v, step)
        v, fired = without_debt(spikes, v, fired)
        return spikes, v, step, fired


class BiasedIntegrateFire(Neuron):
    """Integrate-and-fire with threshold θ and a bias b(t) added to the current: current [T, N, C, …] → θ·spikes [T, N, C, …].

    `bias` [T, C] has the unit of the current; its last row is used in every later step, so a single row is a constant bias.
    `threshold` and `v_initial` are the same as in `IntegrateFire`.  With `no_debt`, v is not negative before the first spike (R0,
    as in `NoDebtIntegrateFire`).
    """

    def __init__(
        self, threshold: Any, bias: Float[Tensor, "T C"], v_initial: float | Tensor = 0.5, no_debt: bool = False
    ) -> None:
        theta = positive(threshold)
        super().__init__(theta, (NoDebtBiasedNode if no_debt else BiasedNode)(theta, bias, v_initial))
