"""Between the clipped and the quantized rectifier."""

from jaxtyping import Float
from torch import Tensor

from snnconv.nn import functional
from snnconv.nn.activations.qcfs_floor_first import QCFSFloorFirst


class SlipReLU(QCFSFloorFirst):
    """a · clip(x, 0, θ) + (1 − a) · qcfs(x, θ, L), with a = `slope` in 0…1: the levels become slopes between smaller steps.

    Each part has its own gradient: dy/dx = 1 where what it clips lies in 0…θ, for the quantized part before the clip
    (`QCFSFloorFirst`).  Source: Jiang et al., ICML 2023 (SlipReLU); their two shifts are 0 and ½, as in their code
    (HaiyanJiang/SNN_Conversion_unified), because v(0) = θ/2 answers to ½.
    """

    def __init__(self, levels: int, threshold: float = 8.0, slope: float = 0.5) -> None:
        super().__init__(levels, threshold)
        if not 0 <= slope <= 1:
            raise ValueError(f"slope={slope!r}: 0 (quantized) to 1 (clipped)")
        self.slope = slope

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Both parts, weighted."""
        return self.slope * functional.clip(x, self.threshold) + (1 - self.slope) * super().forward(x)

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        return f"{super().extra_repr()}, slope={self.slope:.4g}"
