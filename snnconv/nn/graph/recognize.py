"""Recognition of ReLU and clipped ReLU in any form, by evaluating formulas on test values."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.nn.graph.calls import is_mutable, operation
from snnconv.nn.graph.sites import BoundedReLU

AFFINE = {"add", "sub", "rsub", "mul", "div", "neg", "detach", "clone"}
NONLINEAR = {
    "relu", "relu6", "hardtanh", "clamp", "clip", "clamp_min", "clamp_max", "threshold", "leaky_relu", "rrelu", "abs", "sign",
    "where", "gt", "ge", "lt", "le", "eq", "ne", "maximum", "minimum", "heaviside", "masked_fill", "round", "floor", "ceil",
    "trunc", "zeros_like", "ones_like", "full_like", "pow", "square", "sqrt", "rsqrt", "exp", "log", "log1p", "expm1", "sin", "cos",
    "atan", "erf", "reciprocal", "softsign", "frac",
}  # fmt: skip
LARGEST = 4  # index of the largest of NUMBERS
LONGEST = 12  # largest number of calls in a formula
NUMBERS = torch.cat([torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4]), torch.linspace(-12.3, 12.7, 4001)]).double()


def activation(end: fx.Node, values: Mapping[fx.Node, Any]) -> tuple[nn.Module, fx.Node] | None:
    """The ReLU or clipped ReLU whose output is the node `end` of an export, and the node of its input; None if there is none."""
    if operation(end) not in (AFFINE | NONLINEAR) - {"clone", "detach"}:
        return None
    formula: list[fx.Node] = [end]
    while len(formula) <= LONGEST:
        outside = {source for node in formula for source in node.all_input_nodes if source not in formula}
        signals = sorted(source for source in outside if not isinstance(values[source], Tensor))
        if not signals or any(values[c].numel() != 1 for c in outside if isinstance(values[c], Tensor)):
            return None
        if len(signals) == 1 and any(operation(node) in NONLINEAR for node in formula):
            (source,) = signals
            if source.meta["val"].shape == end.meta["val"].shape and (
                module := _named(compute(formula, source, values))
            ):
                return module, source
        latest = signals[-1]
        if latest.op != "call_function" or operation(latest) not in AFFINE | NONLINEAR:
            return None
        if operation(end) in AFFINE and values[latest].meta.get("is_relu"):
            return None  # an affine function after an activation is kept as an operation
        if any(user not in formula and user < end for user in latest.users) and is_mutable(latest):
            return None
        formula.insert(0, latest)
        formula.sort()
    return None


def compute(formula: list[fx.Node], source: fx.Node, values: Mapping[fx.Node, Any]) -> Tensor | None:
    """Result of the calls of `formula` with `NUMBERS` as the value of `source`; None if they fail."""
    results: dict[fx.Node, Any] = {source: NUMBERS.clone()}
    try:
        for node in formula:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: results.get(n, values[n]))
            results[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            if is_mutable(node):
                results[node.args[0]] = results[node]  # type: ignore[index]
        return results[formula[-1]].double()
    except (RuntimeError, TypeError, AttributeError):
        return None


def _named(y: Tensor | None) -> nn.Module | None:
    """ReLU or clipped ReLU if `y` is its output for `NUMBERS`, else None."""
    if y is None or y.shape != NUMBERS.shape or y[NUMBERS <= 0].any():
        return None
    ceiling = y[LARGEST].item()
    if torch.allclose(y, NUMBERS.clamp_min(0), rtol=1e-6, atol=0):
        return nn.ReLU()
    if 0 < ceiling < NUMBERS[LARGEST] and torch.allclose(y, NUMBERS.clamp(0, ceiling), rtol=1e-6, atol=0):
        return BoundedReLU(ceiling)
    return None
