"""SpikingJelly's integrate-and-fire neuron with soft reset and v(0)."""

from spikingjelly.activation_based.neuron import IFNode
from torch import Tensor, nn


class Neuron(nn.Module):
    """`IFNode` with soft reset (v_reset None) that starts from v(0) instead of 0."""

    def __init__(self, threshold: Tensor, v_initial: Tensor) -> None:
        super().__init__()
        self.node = IFNode(v_reset=None, step_mode="s")
        self.node.v_threshold = threshold  # its constructor accepts only one threshold per layer
        self.v_initial, self.first = v_initial, True

    def reset(self) -> None:
        """Set the membrane potential to v(0)."""
        self.node.reset()
        self.first = True

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of one timestep."""
        if self.first:
            self.node.v = self.v_initial.expand_as(x).clone()
            self.first = False
        return self.node(x)
