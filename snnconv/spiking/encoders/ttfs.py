"""Time to first spike: one spike in a window; a larger r gives an earlier spike of larger weight."""

from torch import Tensor

from snnconv.spiking.encoders.base import Range, SpikeCode


class TimeToFirstSpike(SpikeCode):
    """One spike in every `window` steps, at step (1 − r)·(window − 1); its weight decreases linearly to 0 over the window.

    The mean of a window is r, rounded to window − 1 levels; r = 0 gives no spike.
    """

    name = "ttfs"

    def __init__(self, window: int = 8, low: Range = None, high: Range = None) -> None:
        super().__init__(low, high)
        if type(window) is not int or window < 2:
            raise ValueError(f"encoder.window={window!r}: must be an integer of at least 2 (steps)")
        self.window = window

    def spikes(self, fraction: Tensor, t: int) -> Tensor:
        """The weighted spike."""
        step, last = t % self.window, self.window - 1
        fires = ((1 - fraction) * last).round() == step
        return fires.to(fraction.dtype) * (self.window * (1 - step / last))
