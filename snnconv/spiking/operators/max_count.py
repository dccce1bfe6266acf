"""Max pooling of spike counts: exact, and binary if its inputs are binary."""

from typing import Any

from torch import Tensor, nn

from snnconv.spiking.operators.base import Operator


class MaxCount(Operator):
    """out_t = max S_t − max S_{t−1} over each window, where S_t is the sum of the inputs up to t.

    It emits a spike whenever the largest count in the window increases.  If all inputs of a window are spikes of one amplitude, the
    output is 0 or one such spike, and the sum of the outputs up to T is exactly the largest sum.  Max pooling is homogeneous,
    t·max(S/t) = max S, so this equals the running mean but needs no division: it compares counters, and only when a spike arrives.
    Inputs with several levels or signs give outputs with several levels or signs.
    """

    emits_spikes = True
    sum0: Any
    total: Any

    def __init__(self, function: nn.Module) -> None:
        super().__init__(function)
        self.register_memory("sum0", None)
        self.register_memory("total", None)

    def summary(self) -> str:
        """A line for the table of `check`."""
        return "max pooling of spike counts, binary for spikes"

    def step(self, *signals: Tensor) -> Tensor:
        """Increase of the largest sum of each window."""
        started = self.sum0 is not None and self.sum0.shape == signals[0].shape
        self.sum0 = self.summed("sum0", signals[0])
        previous, self.total = self.total, self.function(self.sum0)
        return (self.total - previous if started else self.total).to(signals[0].dtype)
