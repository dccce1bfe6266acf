"""An integrate-and-fire neuron built by SpikingJelly's conversion: current / θ → node of threshold 1 → θ · spikes."""

from jaxtyping import Float
from torch import Tensor, nn

from snnconv.spiking.neurons.base import Neuron, Threshold, per_channel


class SpikingJellyNeuron(Neuron):
    """`node` between two scalings: current [T, N, …] → scale · node(gain · current) [T, N, …].

    `gain` and `scale` are numbers or [C], one per channel; the threshold of the node is 1, so `scale` is θ and `gain` is 1/θ.  The
    membrane is float32 for currents of any lower precision, and float64 for float64.
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
