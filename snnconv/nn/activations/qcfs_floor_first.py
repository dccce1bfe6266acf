"""QCFS with the gradient of its authors' first repository, whose window is half a level wider on both sides."""

from jaxtyping import Float
from torch import Tensor

from snnconv.nn import functional
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.kernels import one_call


@one_call("qcfs_floor_first(Tensor x, Tensor theta, int levels) -> Tensor")
def _qcfs_floor_first(x: Tensor, theta: Tensor, levels: int) -> Tensor:
    return functional.qcfs_floor_first(x, functional.positive_threshold(theta), levels)


class QCFSFloorFirst(QCFS):
    """QCFS whose gradient is that of clip after floor (`functional.qcfs_floor_first`).  The output is the same."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """qcfs(x, θ, L); half precision is quantized in float32 and returned in its own dtype."""
        return _qcfs_floor_first(x, self.theta, self.levels)
