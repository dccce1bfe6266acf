"""A network for inputs that change over time, such as frames of events."""

from collections.abc import Sequence

from torch import Tensor, nn


class MeanOverTime(nn.Module):
    """`network` of the mean frame: inputs [N, frames, C, …] → outputs.

    The output of a rate-coded spiking network depends on the sum of its inputs.  Therefore the ANN is trained with the mean frame,
    and the converted spiking network reads one frame in each step.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """The output for the mean frame."""
        return self.network(inputs.mean(1))


def mean_over_time(model: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """`model` applied to the mean over the first axis of `input_shape` [frames, C, …]."""
    return MeanOverTime(model)
