"""Phase code: the bits of r, most significant first, as spikes of decreasing weight (Kim et al., Neurocomputing 2018)."""

from torch import Tensor

from snnconv.spiking.encoders.base import Range, SpikeCode


class Phase(SpikeCode):
    """In phase p = 0, …, `bits` − 1, bit p of r is a spike of weight bits · 2^−(p+1); the mean of a period is r, rounded."""

    name = "phase"

    def __init__(self, bits: int = 8, low: Range = None, high: Range = None) -> None:
        super().__init__(low, high)
        if type(bits) is not int or not 1 <= bits <= 16:
            raise ValueError(f"encoder.bits={bits!r}: must be an integer from 1 to 16")
        self.bits = bits

    def spikes(self, fraction: Tensor, t: int) -> Tensor:
        """The weighted bit."""
        phase, whole = t % self.bits, (fraction * 2**self.bits).round().clamp_max(2**self.bits - 1)
        bit = (whole / 2 ** (self.bits - 1 - phase)).floor() % 2
        return bit * (self.bits * 2.0 ** -(phase + 1))
