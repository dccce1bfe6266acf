"""sinabs' integrate-and-fire neuron with at most one spike per timestep, no lower bound, and v(0)."""

import sinabs.layers
from sinabs.activation import MembraneSubtract, SingleSpike
from torch import Tensor, nn


class Neuron(nn.Module):
    """`IAF` on [N, 1, …], since sinabs has the timesteps as dimension 1."""

    def __init__(self, threshold: Tensor, v_initial: Tensor) -> None:
        super().__init__()
        self.node = sinabs.layers.IAF(
            spike_threshold=threshold, spike_fn=SingleSpike, reset_fn=MembraneSubtract(), min_v_mem=None
        )
        self.v_initial, self.first = v_initial, True

    def reset(self) -> None:
        """Set the membrane potential to v(0)."""
        self.first = True

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of one timestep."""
        if self.first:
            self.node.init_state_with_shape(x.shape)
            self.node.v_mem = self.v_initial.expand_as(x).clone()
            self.first = False
        return self.node(x.unsqueeze(1)).squeeze(1)
