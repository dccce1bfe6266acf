"""Operations of an integer network."""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from snnconv.nn.graph.trace import Operation

LOGITS = "(logits)"
RESOLUTION = 2**8  # units in a threshold, at least; and in a scale where values of several scales meet


class Digitize(Operation):
    """Integer images: round(x / unit), within ±`most`."""

    def __init__(self, unit: float, most: int) -> None:
        super().__init__()
        self.unit, self.most = unit, most

    def forward(self, x: Float[Tensor, "N *shape"]) -> Float[Tensor, "N *shape"]:
        """Integers."""
        return (x / self.unit).round().clamp(-self.most, self.most)


class SumPool(Operation):
    """Sums over windows: average pooling without its division.  `kernel` None: over all of height and width."""

    def __init__(self, kernel: Any = None, stride: Any = None, padding: Any = 0) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C h w"]:
        """The sums."""
        if self.kernel is None:
            return x.sum((-2, -1), keepdim=True)
        return F.avg_pool2d(x, self.kernel, self.stride, self.padding, divisor_override=1)


class Times(Operation):
    """Spikes of a shortcut in units of the potentials: x · `factor` [C], an integer."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, x: Float[Tensor, "N C *space"]) -> Float[Tensor, "N C *space"]:
        """The product."""
        factor: Any = self.factor
        return x * factor.to(x).view(-1, *[1] * (x.dim() - 2))


class Requantize(Operation):
    """Rescales a current for the next weight layer: (x · `multiplier` [C] + 2^(shift−1)) >> shift, rounded half up.

    `multiplier` and `shift` are chosen so that products fit into int32, and float64 represents them exactly.
    """

    def __init__(self, multiplier: Tensor, shift: int) -> None:
        super().__init__()
        self.register_buffer("multiplier", multiplier.long())  # an integer in any precision of the network
        self.shift = shift

    def forward(self, x: Float[Tensor, "N C *space"]) -> Float[Tensor, "N C *space"]:
        """Integers."""
        multiplier: Any = self.multiplier
        product = x.double() * multiplier.double().view(-1, *[1] * (x.dim() - 2))
        return ((product + 2 ** (self.shift - 1)) / 2**self.shift).floor().to(x.dtype)
