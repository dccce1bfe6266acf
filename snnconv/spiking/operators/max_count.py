"""Max pooling of spike counts: exact, and binary where its inputs are."""

from typing import Any

from torch import Tensor, nn

from snnconv.spiking.operators.base import Operator


class MaxCount(Operator):
    """out_t = max S_t − max S_{t−1} over each window, S_t the sum of the inputs up to t.

    It emits a spike whenever the largest count in the window grows.  If all inputs of a window are spikes of one amplitude, the
    output is 0 or one such spike, and the outputs up to T add up to the largest sum, exactly.  Max pooling is homogeneous,
    t·max(S/t) = max S, so this is the running mean without any division: comparisons of counters, needed only where a spike
    arrives.  Inputs of several levels or signs give outputs of as many levels and signs.
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
        """Growth of the largest sum of each window."""
        started = self.sum0 is not None and self.sum0.shape == signals[0].shape
        self.sum0 = self.summed("sum0", signals[0])
        previous, self.total = self.total, self.function(self.sum0)
        return (self.total - previous if started else self.total).to(signals[0].dtype)
