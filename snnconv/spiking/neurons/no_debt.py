"""Integrate-and-fire whose membrane potential is not negative before the first spike (R0)."""

from typing import Any

import torch
from torch import Tensor

from snnconv.nn import functional
from snnconv.spiking.neurons.base import Neuron, positive
from snnconv.spiking.neurons.integrate_fire import VariedIntegrateFireNode


def without_debt(spikes: Tensor, v: Tensor, fired: Tensor) -> tuple[Tensor, Tensor]:
    """v with its negative part removed where the neuron has not fired yet, and `fired`, both after a step that emitted `spikes`."""
    fired = torch.maximum(fired, spikes.to(fired))
    return torch.where(fired > 0, v, v.clamp_min(0)), fired


class NoDebtNode(VariedIntegrateFireNode):
    """v += x;  spike = 1[v ≥ θ];  v −= θ·spike;  v = max(v, 0) until the first spike."""

    def __init__(self, threshold: Any, v_initial: float | Tensor = 0.5) -> None:
        super().__init__(threshold, v_initial, fired=0.0)

    def fire(self, current: Tensor, v: Tensor, fired: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Spikes (0 or 1), v, and 1 where the neuron has fired."""
        spikes, v = functional.integrate_fire(current, v, self.threshold(v))
        return spikes, *without_debt(spikes, v, fired)


class NoDebtIntegrateFire(Neuron):
    """Integrate-and-fire that ignores negative charge before its first spike: current [T, N, …] → θ·spikes [T, N, …].

    Before the first spike v ← max(v, 0) at the end of every step (R0, repository QZQ123414412/SNN), so early inhibition does not
    delay later excitation.  For a constant current the spikes are those of `IntegrateFire`.  `threshold` and `v_initial` are the
    same as in `IntegrateFire`.
    """

    def __init__(self, threshold: Any, v_initial: float | Tensor = 0.5) -> None:
        theta = positive(threshold)
        super().__init__(theta, NoDebtNode(theta, v_initial))
