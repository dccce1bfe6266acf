"""Obstacles and warnings that one operation of a network gives."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.conversion.obstacles import Obstacle, Step
from snnconv.nn.functional import SMALLEST_THRESHOLD
from snnconv.nn.graph.kinds import NORMS
from snnconv.spiking.operators.base import Site

FAR = 1000  # a θ that is more than so many times above or below the largest current gets a warning


def theta(step: Step) -> Tensor:
    """Thresholds of an activation, flat."""
    site: Any = step.module
    return torch.as_tensor(site.threshold).detach().flatten()


def trained(step: Step) -> str:
    """θ and L of an activation, as text."""
    low, high = f"{theta(step).min():.4g}", f"{theta(step).max():.4g}"
    return f"θ = {low if low == high else f'{low} … {high}'}, L = {step.module.levels}"  # type: ignore[union-attr]


def no_threshold(step: Step) -> Obstacle | None:
    """An obstacle if the θ of an activation is not a positive number, else None."""
    if (theta(step).isfinite() & (theta(step) > 0)).all():
        return None
    reason = f"{trained(step)}, but θ must be a positive number"
    remedy = ("train again, or start from the weights of a ReLU network (model.weights=… fit=finetune); calibration then "
              "computes θ")  # fmt: skip
    return Obstacle(reason, remedy, step.path, step.name)


def odd_threshold(step: Step, peak: float) -> str | None:
    """A warning about the θ of an activation whose largest current is `peak`, or None."""
    low, high = theta(step).min().item(), theta(step).max().item()
    site = f"{step.path} ({step.name}): {trained(step)}"
    if 0 < low < 2 * SMALLEST_THRESHOLD:
        return f"{site}, the smallest θ that is used: the output of the layer is almost 0; train again with a smaller fit.lr"
    if high > FAR * peak > 0:
        return f"{site}, but its largest current is {peak:.2g}: it will (almost) never fire; calibrate or train again"
    if 0 < FAR * low < peak:
        return f"{site}, but its largest current is {peak:.2g}: it clips (almost) every value; calibrate or train again"
    return None


def unfolded(step: Step, folded: Mapping[str, str]) -> str | None:
    """A warning about a batch norm between spikes that cannot be folded, None for any other operation."""
    if not isinstance(step.module, NORMS) or step.path in folded or not step.after_spikes or step.problem:
        return None
    return (f"{step.path} ({step.name}): cannot be folded into a layer, so it is computed in every step; place it directly after "
            "a convolution or linear layer whose output has no other use")  # fmt: skip


def needless(step: Step) -> str | None:
    """A warning about probabilities in the place of logits, or None."""
    function = step.module.operator.function if isinstance(step.module, Site) else step.module
    last = all(user.op == "output" for user in step.node.users)
    if not last or not isinstance(function, nn.LogSoftmax | nn.Softmax):
        return None
    return (f"{step.path} ({name_of(step)}): the last operation does not change the predicted class; remove it to avoid an "
            "operation in floating point")  # fmt: skip


def name_of(step: Step) -> str:
    """The kind of a layer; for an operator, the kind of the layer that it replaces."""
    return type(step.module.operator.function).__name__ if isinstance(step.module, Site) else step.name


def size(module: nn.Module | None) -> int:
    """Number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0
