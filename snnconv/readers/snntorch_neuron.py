"""snnTorch's leaky neuron without leak, with soft reset and v(0)."""

import snntorch
from torch import Tensor, nn


class Neuron(nn.Module):
    """`snn.Leaky` with beta 1.

    `mem` is the potential before the reset, which the next step subtracts.  The neuron fires at v ≥ θ; snnTorch's default fires at
    v > θ.  ValueError if v(0) reaches the threshold, because snnTorch would count that as a spike before the first timestep.
    """

    def __init__(self, threshold: Tensor, v_initial: Tensor) -> None:
        super().__init__()
        if bool((v_initial >= threshold).any()):
            raise ValueError(f"v(0) = {v_initial.max():.4g} reaches the threshold {threshold.min():.4g}, which snnTorch cannot "
                             "represent; use another reader")  # fmt: skip
        self.node = snntorch.Leaky(beta=1.0, threshold=threshold, spike_grad=_reached, reset_mechanism="subtract")
        self.node.state_function = self._charged  # the same rounding as v − θ + x
        self.v_initial, self.first = v_initial, True

    def _charged(self, x: Tensor) -> Tensor:
        return self.node.mem - self.node.reset * self.node.threshold + x

    def reset(self) -> None:
        """Set the membrane potential to v(0)."""
        self.first = True

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of one timestep."""
        if self.first:
            self.node.mem = self.v_initial.expand_as(x).clone()
            self.first = False
        spikes, _ = self.node(x)
        return spikes


def _reached(above: Tensor) -> Tensor:
    """1 at and above the threshold."""
    return (above >= 0).to(above.dtype)
