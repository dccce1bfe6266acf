"""Advice from an error decomposition: the main cause of the loss at each T, remedies, and whether more timesteps would help."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from snnconv.analysis.errors import Decomposition
from snnconv.analysis.layer_errors import LayerErrors
from snnconv.nn.graph.kinds import is_activation

# Remedies for each error: for trained thresholds (QCFS and similar), and for thresholds found by a calibration rule.
REMEDIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "clipping": (
        ("larger thresholds, by longer training or less weight decay on θ (fit.threshold_weight_decay)",),
        (
            "larger thresholds (method=max_norm, or a higher method.rule.percent)",
            "one threshold per channel (method=threshold_balancing, or method.per_channel=true)",
        ),
    ),
    "quantization": (
        ("training with L close to this T (levels=…)", "more timesteps", "several spikes per step (method=group)"),
        (
            "smaller thresholds (method=mse with method.levels close to this T, method=percentile, method=threshold_balancing)",
            "more timesteps",
            "several spikes per step (method=group)",
        ),
    ),
    "unevenness": (
        (
            "a suitable v(0) (method=layer_calibration_advanced, method=temporal_bias)",
            "warm-up steps (method=srp, method=cos)",
            "signed spikes (method=signed)",
            "layers that wait for all their inputs (method=parallel)",
            "training through time (method=finetune)",
        ),
        (
            "suitable biases or v(0) (method=layer_calibration, method=temporal_bias)",
            "signed spikes (method=signed)",
            "training through time (method=finetune method@method.base=mse)",
        ),
    ),
}


@dataclass(frozen=True)
class Advice:
    """One finding about a converted network.

    Args:
        kind: "loss" (accuracy at one T and its main cause), "remedy" (what reduces one cause) or "limit" (T → ∞).
        timesteps: every T to which it applies.
        cause: "clipping", "quantization" or "unevenness"; None if the loss is within the noise, and for "limit".
        remedies: settings that reduce the cause; empty except for "remedy".
        statement: the sentence of a "loss" or "limit".
    """

    kind: Literal["loss", "remedy", "limit"]
    timesteps: tuple[int, ...]
    cause: str | None = None
    remedies: tuple[str, ...] = ()
    statement: str = ""

    def text(self) -> str:
        """One line for terminal, page and JSON."""
        if self.kind != "remedy":
            return self.statement
        return f"To reduce {self.cause} (T = {', '.join(map(str, self.timesteps))}): {'; '.join(self.remedies)}."

    def as_dict(self) -> dict[str, Any]:
        """All fields and the text, for JSON."""
        return {**asdict(self), "text": self.text()}


def diagnose(errors: Decomposition, ann: nn.Module, timesteps: Sequence[int]) -> list[Advice]:
    """The loss at each T of `timesteps`, remedies for each cause, and the limit for larger T, in this order.

    The cause is the error that loses most accuracy (`Decomposition.drops`).  The named layer is the one in which this error is
    largest.  A difference within twice the standard error of the accuracy has no cause.
    """
    trained = any(is_activation(module) for module in ann.modules())
    losses = [_loss(errors, t) for t in timesteps]
    remedies = [
        Advice("remedy", times, part, REMEDIES[part][0 if trained else 1])
        for part in REMEDIES
        if (times := tuple(loss.timesteps[0] for loss in losses if loss.cause == part))
    ]
    return [*losses, *remedies, _limit(errors, max(timesteps))]


def most_important(advice: Sequence[Advice]) -> list[Advice]:
    """The loss at the largest T that has a cause, the remedy for this cause, and the limit."""
    losses = [each for each in advice if each.kind == "loss" and each.cause][-1:]
    causes = [loss.cause for loss in losses]
    return [
        *losses,
        *(each for each in advice if each.kind == "remedy" and each.cause in causes),
        *(each for each in advice if each.kind == "limit"),
    ]


def cause(errors: Decomposition, t: int) -> str | None:
    """The error that loses most accuracy at T; None if the loss is within the noise."""
    drops = errors.drops(t)
    return max(drops, key=lambda part: drops[part]) if errors.ann - errors.snn[t] > _noise(errors) else None


def _noise(errors: Decomposition) -> float:
    """Twice the standard error of an accuracy on this number of images."""
    return 2 * math.sqrt(max(errors.ann * (1 - errors.ann), 1e-3) / errors.images)


def _loss(errors: Decomposition, t: int) -> Advice:
    start = f"T = {t}: {_percent(errors.snn[t])}, ANN {_percent(errors.ann)}"
    if (part := cause(errors, t)) is None:
        return Advice("loss", (t,), statement=f"{start}; the difference is small for {errors.images} images.")
    costs = ", ".join(f"{name} costs {_points(drop)}" for name, drop in errors.drops(t).items())
    worst = max(errors.at(t), key=lambda layer: layer.size[part])
    statement = f"{start}: {costs}. The main cause is {part}, largest in {worst.path} ({_detail(worst, part)})."
    return Advice("loss", (t,), part, statement=statement)


def _detail(layer: LayerErrors, part: str) -> str:
    details = {
        "clipping": f"{_percent(layer.saturated)} of its outputs are at the largest value that a neuron can emit",
        "quantization": f"its mean output is {layer.firing_rate:.2g} θ",
        "unevenness": f"{_percent(1 - layer.offset_spikes[0])} of its outputs have too many or too few spikes for their current",
    }
    return f"{_percent(layer.size[part])} of its squared activation; {details[part]}"


def _limit(errors: Decomposition, t: int) -> Advice:
    limit = f"With more timesteps the accuracy approaches {_percent(errors.limit)}, and only clipping remains"
    gain = errors.limit - errors.snn[t]
    if gain <= _noise(errors):
        text = f"{limit}; at T = {t} it is reached within the noise of {errors.images} images, so more timesteps do not help."
    elif errors.ann - errors.limit > _noise(errors):
        text = f"{limit}: {_points(gain)} more than at T = {t}; the rest is lost to clipping."
    else:
        text = f"{limit}: {_points(gain)} more than at T = {t}."
    return Advice("limit", (t,), statement=text)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points" if share < 0 else f"{100 * share:.1f} points"
