"""A network for inputs that change over time, such as frames of events."""

from collections.abc import Sequence

from torch import Tensor, nn


class MeanOverTime(nn.Module):
    """`network` of the mean frame: inputs [N, frames, C, …] → outputs.

    A rate-coded spiking network adds up what its inputs add up to, so the ANN learns from the mean, and the spiking network that it
    becomes reads one frame in each step.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """The output for the mean frame."""
        return self.network(inputs.mean(1))


def mean_over_time(model: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """`model` behind a mean over the first axis of `input_shape` [frames, C, …]."""
    return MeanOverTime(model)
