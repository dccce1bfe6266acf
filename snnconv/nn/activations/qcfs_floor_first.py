"""QCFS with the gradient of its authors' first repository, whose window is half a level wider on both sides."""

import torch
from jaxtyping import Float
from torch import Tensor

from snnconv.nn.activations.qcfs import QCFS


class QCFSFloorFirst(QCFS):
    """QCFS whose gradient is that of clip after floor: θ · clip(floor(L·x/θ + ½)/L, 0, 1), straight through the floor.

    The same output.  With q = y/θ: dy/dx = 1 and dy/dθ = q − x/θ on −θ/2L ≤ x < θ + θ/2L, where floor(L·x/θ + ½) lies in
    0…L; dy/dx = 0 elsewhere, dy/dθ = 1 above and 0 below.  Source: putshua/SNN_conversion_QCFS, modules.py (MyFloor).
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """qcfs(x, θ, L); half precision is quantized in float32 and returned in its own dtype."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        steps = wide * self.levels / self.threshold + 0.5
        level = steps.detach().floor()
        inside = (level >= 0) & (
            level <= self.levels
        )  # said here, because versions of torch differ at the bounds of clamp
        steps = torch.where(inside, steps + (level - steps).detach(), level.clamp(0, self.levels))
        return (self.threshold * (steps / self.levels)).to(x.dtype)
