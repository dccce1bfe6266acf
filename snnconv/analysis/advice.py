"""What a decomposition says, in plain words: which error, in which layer, what would help, and whether more timesteps would."""

import math
from collections.abc import Sequence

from torch import nn

from snnconv.analysis.errors import Decomposition
from snnconv.analysis.layer_errors import LayerErrors
from snnconv.nn.graph.kinds import is_activation

# What helps against each error, where thresholds were trained and where a rule found them.
REMEDIES = {
    "clipping": (
        "larger thresholds: train longer, or with less decay on θ (fit.threshold_weight_decay)",
        "larger thresholds: method=max_norm, a higher method.rule.percent, or one for each channel (method=threshold_balancing, "
        "or method.per_channel=true)",
    ),
    "quantization": (
        "training with L near this T (levels=…), more timesteps, or several spikes a step (method=group)",
        "smaller thresholds (method=mse with method.levels near this T, method=percentile, method=threshold_balancing), more "
        "timesteps, or several spikes a step (method=group)",
    ),
    "unevenness": (
        "v(0) that fits (method=layer_calibration_advanced, method=temporal_bias), steps of observation (method=srp, "
        "method=cos), signed spikes (method=signed), waiting (method=parallel), or training through time (method=finetune)",
        "currents or v(0) that fit (method=layer_calibration, method=temporal_bias), signed spikes (method=signed), or "
        "training through time (method=finetune method@method.base=mse)",
    ),
}


def diagnose(errors: Decomposition, ann: nn.Module, timesteps: Sequence[int]) -> list[str]:
    """Sentences: about each T of `timesteps`, about what helps against each error that was found, and about larger T.

    The error that is named is the one that costs most accuracy between the networks of the ladder; the layer, that in which it
    is largest by itself.  Differences within twice the standard error of the number of images are called small.
    """
    trained = any(is_activation(module) for module in ann.modules())
    causes = {t: cause(errors, t) for t in timesteps}
    found = {part: [t for t in timesteps if causes[t] == part] for part in REMEDIES}
    remedies = [
        f"Against {part} (T = {', '.join(map(str, times))}): {REMEDIES[part][0 if trained else 1]}."
        for part, times in found.items()
        if times
    ]
    return [
        *(_about(errors, t, causes[t]) for t in timesteps),
        *remedies,
        _more_timesteps(errors, max(timesteps)),
    ]


def cause(errors: Decomposition, t: int) -> str | None:
    """The error that costs most at T, None if the loss may be chance."""
    drops = errors.drops(t)
    return max(drops, key=lambda part: drops[part]) if errors.ann - errors.snn[t] > _chance(errors) else None


def _chance(errors: Decomposition) -> float:
    """Twice the standard error of an accuracy on so many images."""
    return 2 * math.sqrt(max(errors.ann * (1 - errors.ann), 1e-3) / errors.images)


def _about(errors: Decomposition, t: int, part: str | None) -> str:
    start = f"T = {t}: {_percent(errors.snn[t])}, ANN {_percent(errors.ann)}"
    if part is None:
        return f"{start}; the difference is small for {errors.images} images."
    costs = ", ".join(f"{name} costs {_points(drop)}" for name, drop in errors.drops(t).items())
    worst = max(errors.at(t), key=lambda layer: layer.size[part])
    return f"{start}: {costs}. Most of it is {part}, by itself largest in {worst.path} ({_detail(worst, part)})."


def _detail(layer: LayerErrors, part: str) -> str:
    told = {
        "clipping": f"{_percent(layer.saturated)} of its outputs are all that a neuron can put out",
        "quantization": f"its mean output is {layer.firing_rate:.2g} θ",
        "unevenness": f"{_percent(1 - layer.offset_spikes[0])} of its outputs have a wrong number of spikes for their mean current",
    }
    return f"{_percent(layer.size[part])} of its squared activation; {told[part]}"


def _more_timesteps(errors: Decomposition, t: int) -> str:
    limit = f"Without errors of timing, more timesteps end at {_percent(errors.limit)}, where only clipping is left"
    gain = errors.limit - errors.snn[t]
    if gain <= _chance(errors):
        return f"{limit}: at T = {t} the network is there, as far as {errors.images} images tell, and more cannot help."
    if errors.ann - errors.limit > _chance(errors):
        return f"{limit}: that is {_points(gain)} more than at T = {t}, and clipping keeps the rest."
    return f"{limit}: that is {_points(gain)} more than at T = {t}."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points" if share < 0 else f"{100 * share:.1f} points"
