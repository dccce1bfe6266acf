"""CS-QCFS: QCFS with one trained threshold per channel."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from snnconv.nn import functional
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.kernels import is_traced, one_call


def _threshold(p: Tensor) -> Tensor:
    return functional.positive_threshold(softplus(p))


@one_call("cs_qcfs(Tensor x, Tensor p, int levels) -> Tensor")
def _cs_qcfs(x: Tensor, p: Tensor, levels: int) -> Tensor:
    theta = _threshold(p)
    return functional.qcfs(x, theta.view(-1, *[1] * (x.dim() - 2)) if theta.dim() else theta, levels)


class CSQCFS(QCFS):
    """qcfs(x, θ_c, L) with θ_c = softplus(p_c) for every channel c, axis 1 of x.  Source: CS-QCFS (Neural Networks, 2025).

    The parameter `p` is one number until the number of channels is known: from the first input, from a loaded state dict, or from
    `set_threshold`.  From then on it is [C].  Weight decay acts on p.  An input without a channel axis uses the one number.
    """

    def __init__(self, levels: int = 8, threshold: float | None = None) -> None:
        super().__init__(levels)
        del self.theta
        self.p = nn.Parameter(torch.full((), torch.nan))
        self.register_forward_pre_hook(_at_first_input)
        if threshold is not None:
            self.set_threshold(threshold)

    @property
    def threshold(self) -> Float[Tensor, "#C"] | Float[Tensor, ""]:
        """θ [C], or one θ before the number of channels is known; positive."""
        return _threshold(self.p)

    @torch.no_grad()
    def set_threshold(self, value: float | Tensor) -> None:
        """Set θ of all channels, or [C], of each; ValueError unless positive and finite."""
        one = not isinstance(value, Tensor) or value.dim() == 0
        values = [float(value)] if one else value.tolist()  # type: ignore[union-attr]
        if not all(isinstance(theta, float) and math.isfinite(theta) and theta > 0 for theta in values):
            raise ValueError(f"threshold={value!r}: must be a positive number, or one positive number for each channel")
        p = functional.inverse_softplus(torch.tensor(values, dtype=torch.float64))
        if not one:
            self.expand(len(p))
        self.p.copy_(p.squeeze() if one else p)

    @torch.no_grad()
    def expand(self, channels: int) -> None:
        """Give `p` one value per channel; ValueError if it has another number of channels already."""
        if self.p.dim() == 0:
            self.p.data = self.p.data.repeat(channels)
        elif len(self.p) != channels:
            raise ValueError(f"CSQCFS: has thresholds for {len(self.p)} channels, got {channels}")

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """qcfs(x, θ_c, L)."""
        return _cs_qcfs(x, self.p, self.levels)

    def take_shapes(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Expand `p` to the number of channels in a state dict that is about to be loaded."""
        stored = state.get(f"{prefix}p")
        if stored is not None and stored.dim() == 1 and self.p.dim() == 0:
            self.expand(len(stored))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        self.take_shapes(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        low, high = self.threshold.min().item(), self.threshold.max().item()
        known = f"{low:.4g} to {high:.4g}" if low == low else "not known yet"
        return f"levels={self.levels}, threshold={known}, channels={len(self.p) if self.p.dim() else 'not known yet'}"


def _at_first_input(site: Any, inputs: tuple[Tensor]) -> None:
    """Hook that removes itself; torch.export records the network without it, torch.compile runs it outside its graphs."""
    if not torch.compiler.is_exporting():
        _expand(site, inputs[0])


@torch.compiler.disable
def _expand(site: CSQCFS, x: Tensor) -> None:
    if is_traced(x):
        return
    for key in [key for key, hook in site._forward_pre_hooks.items() if hook is _at_first_input]:
        del site._forward_pre_hooks[key]
    if x.dim() > 1 and site.p.dim() == 0:
        site.expand(x.shape[1])
