"""An integrate-and-fire node as SpikingJelly's conversion builds it: current / θ → node of threshold 1 → θ · spikes."""

from jaxtyping import Float
from torch import Tensor, nn

from snnconv.spiking.neurons.base import Neuron, Threshold, per_channel


class SpikingJellyNeuron(Neuron):
    """`node` between two scalings: current [T, N, …] → scale · node(gain · current) [T, N, …].

    `gain` and `scale` are numbers or [C], one a channel; as the node's own threshold is 1, `scale` is θ and gain 1/θ.  The
    membrane is float32 whatever the precision of the current (float64 stays float64).
    """

    constants = ("threshold", "amplitude", "gain")

    def __init__(self, node: nn.Module, gain: Tensor, scale: Tensor) -> None:
        threshold: Threshold = scale.cpu() if scale.dim() else scale.item()
        super().__init__(threshold, node)
        self.gain: Threshold = gain.cpu() if gain.dim() else gain.item()

    def forward(self, current: Float[Tensor, "T N *shape"]) -> Float[Tensor, "T N *shape"]:
        """θ · spikes of each timestep."""
        wide = current if current.dtype.itemsize >= 4 else current.float()
        gain = per_channel(self.gain.to(wide), wide, axis=2) if isinstance(self.gain, Tensor) else self.gain
        return super().forward(wide * gain).to(current.dtype)
