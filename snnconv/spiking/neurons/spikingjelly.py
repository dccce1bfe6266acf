"""Neurons built by SpikingJelly's conversion: current / θ → node of threshold 1 → θ · spikes."""

import torch
from jaxtyping import Float
from spikingjelly.activation_based.ann2snn.recipes.sta_transformer import _STASpikeEncoder
from torch import Tensor, nn

from snnconv.spiking.neurons.base import Neuron, Threshold, beside, per_channel, positive


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
        gain = per_channel(beside(self, "gain", wide), wide, axis=2) if isinstance(self.gain, Tensor) else self.gain
        return super().forward(wide * gain).to(current.dtype)


class STAEncoder(Neuron):
    """SpikingJelly's encoder of signals of either sign: current [T, N, …, C] → θ · spikes, θ = `threshold` [C].

    v ← v + x;  spikes = trunc(v/θ), any integer;  v ← v − θ·spikes.  Channels are the last axis, so θ is not folded.
    """

    graded = True  # what operators behind it receive are no spikes of one amplitude

    def __init__(self, threshold: Tensor) -> None:
        super().__init__(positive(threshold), _STASpikeEncoder(torch.ones(1)), amplitude=1.0)

    @property
    def value(self) -> Threshold:
        """Nothing that weights could take over."""
        return 1.0

    def forward(self, current: Float[Tensor, "T N *shape"]) -> Float[Tensor, "T N *shape"]:
        """θ · spikes of each timestep."""
        wide = current if current.dtype.itemsize >= 4 else current.float()
        theta = beside(self, "threshold", wide) if isinstance(self.threshold, Tensor) else self.threshold
        return (theta * super().forward(wide / theta)).to(current.dtype)
