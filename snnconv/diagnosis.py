"""What a decomposition says, in plain words: which error, in which layer, what would help, and whether more timesteps would."""

import math
from collections.abc import Sequence

from torch import nn

from snnconv.decomposition import Decomposition, LayerErrors
from snnconv.surgery import is_activation

# What helps against each error, where thresholds were trained and where a rule found them.
REMEDIES = {
    "clipping": (
        "larger thresholds: train longer, or with less decay on θ (fit.threshold_weight_decay)",
        "larger thresholds: method=max_norm, a higher method.rule.percent, or one for each channel (method=threshold_balancing, "
        "method.per_channel=true)",
    ),
    "quantization": (
        "training with L near this T (levels=…), more timesteps, or several spikes a step (method=group)",
        "smaller thresholds (method=mse with levels near this T, method=percentile, method=threshold_balancing), more "
        "timesteps, or several spikes a step (method=group)",
    ),
    "unevenness": (
        "v(0) that fits (method=layer_calibration_advanced, method=temporal_bias), steps of observation (method=srp, "
        "method=cos), signed spikes (method=signed), waiting (method=parallel), or training through time (method=finetune)",
        "currents or v(0) that fit (method=layer_calibration, method=temporal_bias), signed spikes (method=signed), or "
        "training through time (method=finetune)",
    ),
}


def diagnose(errors: Decomposition, ann: nn.Module, timesteps: Sequence[int]) -> list[str]:
    """Sentences about each T of `timesteps`, and one about larger T.

    The cause is the error that costs most accuracy between the networks of the ladder; the layer, that in which it is largest
    by itself.  Differences within twice the standard error of the number of images are called small.
    """
    trained = any(is_activation(module) for module in ann.modules())
    noise = 2 * math.sqrt(max(errors.ann * (1 - errors.ann), 1e-3) / errors.images)
    return [*(_about(errors, t, trained, noise) for t in timesteps), _more_timesteps(errors, max(timesteps), noise)]


def _about(errors: Decomposition, t: int, trained: bool, noise: float) -> str:
    drops, lost = errors.drops(t), errors.ann - errors.snn[t]
    start = f"T = {t}: {_percent(errors.snn[t])} of the ANN's {_percent(errors.ann)}"
    if lost <= noise:
        return f"{start}; the difference is small for {errors.images} images."
    cause = max(drops, key=lambda part: drops[part])
    costs = ", ".join(f"{part} costs {_points(drop)}" for part, drop in drops.items())
    worst = max(errors.at(t), key=lambda layer: layer.size[cause])
    return (
        f"{start}: {costs}. Most of it is {cause}, by itself largest in {worst.path} ({_detail(worst, cause)}). "
        f"What would help: {REMEDIES[cause][0 if trained else 1]}."
    )


def _detail(layer: LayerErrors, cause: str) -> str:
    share = f"{_percent(layer.size[cause])} of its squared activation"
    wrong = 1 - layer.offset_spikes[0]
    told = {
        "clipping": f"{_percent(layer.saturated)} of its neurons fire all they can",
        "quantization": f"{_percent(1 - layer.firing_rate)} of its range above the mean",
        "unevenness": f"{_percent(wrong)} of its neurons emit a wrong number of spikes for their mean current",
    }
    return f"{share}; {told[cause]}"


def _more_timesteps(errors: Decomposition, t: int, noise: float) -> str:
    limit = f"With more timesteps the network tends to {_percent(errors.clipped)}, where only clipping is left"
    if errors.clipped - errors.snn[t] <= noise:
        return f"{limit}: at T = {t} it is there, and more cannot help."
    if errors.ann - errors.clipped > noise:
        gain = _points(errors.clipped - errors.snn[t])
        return f"{limit}: they bring {gain} more than T = {t} at most, and clipping keeps the rest."
    return f"{limit}: they would bring what T = {t} lacks, {_points(errors.clipped - errors.snn[t])}."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points" if share < 0 else f"{100 * share:.1f} points"
