"""Modules for the non-linear operations of a captured network (`capture`), one module per call.

Contract with `spiking.operators`.  In a captured graph every call that is not linear is a `call_module` node whose module is a
leaf that no other node uses.  Its arguments are tensors that depend on the image, with the batch as axis 0 ([N, …], later
[T·N, …]), and so is its one output; constants (masks, scales) are attributes of the module.  `set_submodule(network, node.target,
…)` may therefore replace it by any module of the same signature.  `OPERATORS` lists the classes:

one signal    max, adaptive max and L_p pooling; GELU, SiLU, Hardswish, Hardsigmoid, Sigmoid, Tanh, LeakyReLU, PReLU, …; Softmax,
              LogSoftmax; LayerNorm, GroupNorm, InstanceNorm, LocalResponseNorm, all of torch.nn; `Elementwise`, any other function
              of one signal by element; `Reduction`, a function that combines elements
two or more   `Product` (a·b), `Quotient` (a/b), `Extremum` (maximum or minimum), `MatMul` (matmul, einsum, layers with computed
              weights), `Attention` (q, k, v)

The forward pass computes the function F of the operator; no module has a state.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.nn.graph.kinds import is_activation
from snnconv.nn.graph.trace import Operation


class BoundedReLU(Operation, nn.ReLU):
    """min(max(x, 0), `ceiling`): ReLU6, hardtanh(0, c), clamp(0, c).  A threshold above `ceiling` is not useful."""

    def __init__(self, ceiling: float) -> None:
        super().__init__()
        self.ceiling = ceiling

    def forward(self, input: Tensor) -> Tensor:
        """The clipped input."""
        return input.clamp(0, self.ceiling)

    def extra_repr(self) -> str:
        """Arguments that print(network) shows."""
        return f"ceiling={self.ceiling:g}"


class Product(Operation):
    """a · b of two signals, such as a gate, with broadcasting."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The product."""
        return a * b


class Quotient(Operation):
    """a / b of two signals."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The quotient."""
        return a / b


class Extremum(Operation):
    """Elementwise maximum or minimum of two signals: `function` is torch.maximum or torch.minimum."""

    def __init__(self, function: Callable[..., Tensor] = torch.maximum) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The extremum."""
        return self.function(a, b)


class MatMul(Operation):
    """A bilinear `function` of two signals: torch.matmul, or einsum, linear and convolutions with computed weights."""

    def __init__(self, function: Callable[..., Tensor] = torch.matmul) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The product."""
        return self.function(a, b)


class Attention(Operation):
    """softmax(q kᵀ · scale + mask) v: scaled dot-product attention of three signals, with a constant `mask` or None."""

    mask: Tensor | None

    def __init__(self, mask: Tensor | None = None, **settings: Any) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.settings = settings  # is_causal, scale, enable_gqa

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention output."""
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, **self.settings)


class Elementwise(Operation):
    """An elementwise function of one signal without a class in torch.nn; `formula` is the graph of its calls."""

    def __init__(self, formula: fx.GraphModule, name: str) -> None:
        super().__init__()
        self.formula, self.name = formula, name

    def forward(self, x: Tensor) -> Tensor:
        """The value of the function."""
        return self.formula(x)

    def extra_repr(self) -> str:
        """Arguments that print(network) shows."""
        return self.name


class Reduction(Elementwise):
    """A function of one signal that combines elements of each image, such as a norm along some dimensions."""


OPERATORS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.LPPool1d, nn.LPPool2d, nn.LPPool3d,
    nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.ELU, nn.SELU, nn.CELU,
    nn.Softplus, nn.Softsign, nn.Tanhshrink, nn.Hardshrink, nn.Softshrink, nn.Mish, nn.LeakyReLU, nn.PReLU, nn.RReLU,
    nn.Threshold, nn.GLU, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm,
    Product, Quotient, Extremum, MatMul, Attention, Elementwise,
)  # fmt: skip


def is_site(module: nn.Module) -> bool:
    """Whether `module` represents a single call, so that its replacement may have a state over time."""
    return isinstance(module, (nn.ReLU, *OPERATORS)) or is_activation(module)


def instead_of_relu(network: nn.Module) -> str:
    """The non-linear layers of a network without ReLU, each with the first path, and the remedy; "" if it has none."""
    layers: dict[str, str] = {}
    for path, module in network.named_modules():
        if isinstance(module, OPERATORS):
            layers.setdefault(type(module).__name__, path)
    listed = ", ".join(f"{kind} ({path})" for kind, path in layers.items())
    return f"it computes {listed}; use nn.ReLU or nn.ReLU6 where neurons are needed" if listed else ""
