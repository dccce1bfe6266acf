"""SlipReLU: a weighted sum of the clipped and the quantized rectifier."""

from jaxtyping import Float
from torch import Tensor

from snnconv.nn import functional
from snnconv.nn.activations.qcfs_floor_first import QCFSFloorFirst
from snnconv.nn.kernels import one_call


@one_call("slip_relu(Tensor x, Tensor theta, int levels, float slope) -> Tensor")
def _slip_relu(x: Tensor, theta: Tensor, levels: int, slope: float) -> Tensor:
    threshold = functional.positive_threshold(theta)
    quantized = functional.qcfs_floor_first(x, threshold, levels)
    return slope * functional.clip(x, threshold) + (1 - slope) * quantized


class SlipReLU(QCFSFloorFirst):
    """a · clip(x, 0, θ) + (1 − a) · qcfs(x, θ, L), with a = `slope` in 0…1.

    Each part has its own gradient: `functional.clip` has dy/dx = 1 on 0…θ, the quantized part the window of `QCFSFloorFirst`.
    Source: Jiang et al., ICML 2023 (SlipReLU); their two shifts are 0 and ½, as in their code
    (HaiyanJiang/SNN_Conversion_unified), because v(0) = θ/2 corresponds to ½.
    """

    def __init__(self, levels: int = 8, threshold: float | None = None, slope: float = 0.5) -> None:
        super().__init__(levels, threshold)
        if not 0 <= slope <= 1:
            raise ValueError(f"slope={slope!r}: must be from 0 (quantized) to 1 (clipped)")
        self.slope = slope

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The weighted sum of both parts."""
        return _slip_relu(x, self.theta, self.levels, self.slope)

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        return f"{super().extra_repr()}, slope={self.slope:.4g}"
