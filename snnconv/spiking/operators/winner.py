"""Spiking max pooling by a gate: the input with the largest sum so far is passed on.  Rueckauer et al., Front. Neurosci. 2017."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from snnconv.spiking.operators.base import Operator

WITH_INDICES: dict[type, Any] = {
    nn.MaxPool1d: F.max_pool1d_with_indices,
    nn.MaxPool2d: F.max_pool2d_with_indices,
    nn.MaxPool3d: F.max_pool3d_with_indices,
    nn.AdaptiveMaxPool1d: F.adaptive_max_pool1d_with_indices,
    nn.AdaptiveMaxPool2d: F.adaptive_max_pool2d_with_indices,
    nn.AdaptiveMaxPool3d: F.adaptive_max_pool3d_with_indices,
}


class Winner(Operator):
    """The output of a window is the input with the largest sum so far (this step included): the leading input.

    Of equal sums the first leads.  The output is binary if the input is binary.  If the leading input changes, the sum of the
    outputs up to T differs from the largest sum; `MaxCount` is exact.  ValueError for a layer that is not max pooling.
    """

    emits_spikes = True
    sum0: Any

    def __init__(self, function: nn.Module) -> None:
        if type(function) not in WITH_INDICES:
            raise ValueError(f"{type(function).__name__}: operators=winner supports only max pooling")
        super().__init__(function)
        self.register_memory("sum0", None)

    def summary(self) -> str:
        """A line for the table of `check`."""
        return "max pooling by the leading input, binary for spikes"

    def step(self, *signals: Tensor) -> Tensor:
        """The value of the leading input of each window."""
        self.sum0 = self.summed("sum0", signals[0])
        pool: Any = self.function
        if hasattr(pool, "output_size"):
            _, leader = WITH_INDICES[type(pool)](self.sum0, pool.output_size)
        else:
            geometry = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
            _, leader = WITH_INDICES[type(pool)](self.sum0, *geometry)
        space = leader.dim() - 2
        return signals[0].flatten(-space).gather(-1, leader.flatten(-space)).view_as(leader)
