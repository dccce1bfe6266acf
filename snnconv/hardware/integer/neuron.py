"""Integer integrate-and-fire neuron: thresholds, potentials and currents are integers that float32 represents exactly."""

from typing import Any

import torch
from torch import Tensor

from snnconv.spiking.neurons.base import Neuron, Node, per_channel
from snnconv.spiking.neurons.no_debt import without_debt

EXACT = 2**24  # float32 holds every integer up to here


class WidthError(ValueError):
    """Numbers of these weights, thresholds and images do not fit their widths; other weights may fit."""


def require_width(bits: int | None) -> None:
    """Raise a ValueError unless `bits` is None, or a width that float32 represents exactly."""
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 24):
        raise ValueError(f"membrane_bits={bits}: must be an integer from 2 to 24, or null")


class IntegerNode(Node):
    """v ← v + x + b(t);  spike = 1[v ≥ θ];  v ← v − θ·spike, in integers; with `bits`, v saturates at that many bits.

    θ is one number for the layer, or one for each channel; v(0) likewise, or one for each neuron.  `bias` [T, C] has one row for
    each step; later steps use the last row.  With `no_debt` v ← max(v, 0) until the first spike.  `least` and `most` are the
    extremes of v before the spike since `watch`.
    """

    scalars = ("step",)

    def __init__(
        self,
        threshold: Tensor,
        v_initial: Tensor,
        bits: int | None = None,
        bias: Tensor | None = None,
        no_debt: bool = False,
    ) -> None:
        states = ["step"] * (bias is not None) + ["fired"] * no_debt
        super().__init__(threshold, **dict.fromkeys(states, 0.0))
        self.start, self.bits, self.bias, self.no_debt = v_initial, bits, bias, no_debt
        self.watch()

    def watch(self) -> None:
        """Reset the extremes."""
        self.least, self.most = torch.tensor(torch.inf), torch.tensor(-torch.inf)

    def _first(self, name: str, step: Tensor) -> Tensor | float:
        return per_channel(self.start.to(step.device), step).float() if name == "v" else super()._first(name, step)

    def fire(self, current: Tensor, v: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Spikes (0 or 1), v, and where they exist the number of steps so far and 1 where the neuron has fired."""
        after = []
        if self.bias is not None:
            current = current + per_channel(self._row(states[0]).to(v), v)  # exact: `bound` of the layer includes b
            after.append(states[0] + 1)
        spikes, v = self._spike(current, v)
        if self.no_debt:
            v, fired = without_debt(spikes, v, states[-1])
            after.append(fired)
        return spikes, v, *after

    def _row(self, step: Tensor) -> Tensor:
        bias: Any = self.bias
        return bias.to(step.device).index_select(0, step.long().clamp_max(len(bias) - 1).view(1))[0]

    def _spike(self, current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        theta, charged = self.threshold(v), v + current
        if self.bits is not None:
            charged = charged.clamp(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)
        self.least, self.most = (
            torch.minimum(self.least.to(v), charged.amin()),
            torch.maximum(self.most.to(v), charged.amax()),
        )
        spikes = (charged >= theta).to(charged.dtype)
        return spikes.to(current.dtype), charged - theta * spikes


class IntegerIntegrateFire(Neuron):
    """An `IntegerNode` with spikes of size 1: current [T, N, C, …] → spikes [T, N, C, …].

    `threshold` [C], `v_initial` [C] (or of the shape of the layer) and `bias` [T, C] are integers; `bits` is the width of a
    saturating membrane, None for any width.  ValueError unless 0 < θ, and unless θ and v(0) fit into the membrane.
    """

    def __init__(
        self,
        threshold: Any,
        v_initial: Any,
        bits: int | None = None,
        bias: Tensor | None = None,
        no_debt: bool = False,
    ) -> None:
        theta, first = (torch.as_tensor(x, dtype=torch.float64) for x in (threshold, v_initial))
        if not bool(((theta > 0) & (theta == theta.round())).all() and (first == first.round()).all()):
            raise ValueError(f"threshold={threshold!r}, v_initial={v_initial!r}: expected integers, and θ above 0")
        require_width(bits)
        for name, values in (("threshold", theta), ("v(0)", first)):
            largest = int(values.abs().max())
            if bits is not None and largest > 2 ** (bits - 1) - 1:
                raise ValueError(
                    f"membrane_bits={bits}: the largest {name} is {largest} units; use at least {largest.bit_length() + 1}"
                )
        super().__init__(theta, IntegerNode(theta, first, bits, bias, no_debt), amplitude=1.0)
