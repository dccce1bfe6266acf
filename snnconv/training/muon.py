"""Muon for weight matrices and AdamW for everything else, as one optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the polynomial that moves singular values to 1 (K. Jordan, 2024)


class MuonAdamW(torch.optim.AdamW):
    """Muon (K. Jordan, 2024) for the groups with `muon=True`, AdamW for the others.

    A kernel [out, in, …] is taken as a matrix [out, in · …].  The update of a matrix has the size of an update of AdamW, as in
    `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, so both share a learning rate and a weight decay.  torch's own class takes
    matrices only.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, momentum: float, nesterov: bool, fused: bool | None
    ) -> None:
        self.momentum, self.nesterov = momentum, nesterov
        super().__init__(groups, lr=lr, betas=(momentum, 0.999), fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"] if group.get("muon") else ():
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
                    weight.grad = None  # AdamW skips it
        return super().step(closure)

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Decay `weight` and move it against the orthogonalized mean of its gradients."""
        state = self.state[weight]
        if not state:
            state.update(step=torch.zeros(()), momentum=torch.zeros_like(weight))
        state["step"] += 1  # AdamW loads no state without it
        mean = state["momentum"].lerp_(gradient, 1 - self.momentum)
        step = orthogonalized((gradient.lerp(mean, self.momentum) if self.nesterov else mean).flatten(1))
        size = 0.2 * max(step.shape) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(step.view(weight.shape), alpha=-size * group["lr"])


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """`matrix` [M, K] with its singular values close to 1, by Newton-Schulz iterations in bfloat16."""
    a, b, c = _COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).bfloat16()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(matrix.dtype)


def hidden_matrices(ann: nn.Module) -> list[Tensor]:
    """Weights of the linear layers and convolutions of `ann`, except those of the first and the last (in order of definition)."""
    weights = [module.weight for module in ann.modules() if isinstance(module, _WEIGHTED)]
    return [weight for weight in weights[1:-1] if weight is not weights[0] and weight is not weights[-1]]
