"""norse's integrate-and-fire neuron with soft reset and v(0)."""

from typing import Any

from norse.torch.functional.heaviside import heaviside
from norse.torch.functional.iaf import IAFFeedForwardState, IAFParameters
from norse.torch.functional.reset import reset_subtract
from norse.torch.module.snn import SNNCell
from torch import Tensor, nn


class Neuron(nn.Module):
    """An `SNNCell` like `IAFCell`, but with soft reset and spikes at v ≥ θ; `IAFCell` resets to v_reset and fires at v > θ."""

    def __init__(self, threshold: Tensor, v_initial: Tensor) -> None:
        super().__init__()
        self.v_initial = v_initial
        self.node = SNNCell(_step, self._start, IAFParameters(v_th=threshold))
        self.state: Any = None

    def _start(self, x: Tensor) -> IAFFeedForwardState:
        return IAFFeedForwardState(v=self.v_initial.expand_as(x))

    def reset(self) -> None:
        """Set the membrane potential to v(0)."""
        self.state = None

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of one timestep."""
        spikes, self.state = self.node(x, self.state)
        return spikes


def _step(x: Tensor, state: Any, p: Any, dt: float) -> tuple[Tensor, IAFFeedForwardState]:
    """`iaf_feed_forward_step` with soft reset."""
    v = state.v + x
    spikes = 1 - heaviside(p.v_th - v)  # norse's heaviside is 0 at 0
    return spikes, IAFFeedForwardState(v=reset_subtract(spikes, v, p.v_reset, p.v_th))
