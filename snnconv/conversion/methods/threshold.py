"""Spiking networks from ReLU networks: a rule computes thresholds from calibration images.

Sources of the rules (`conversion.rules`): Diehl et al., IJCNN 2015 (max-norm); Rueckauer et al., Front. Neurosci. 2017
(percentile); Li et al., ICML 2021 (least squares); Migacz, GTC 2017 (Kullback-Leibler); Huang et al., ICML 2025 (normal).  Some
papers scale the weights so that the threshold is 1; a threshold θ with unscaled weights, as here, gives the same spikes.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.calibration import observed_thresholds
from snnconv.conversion.method import converts
from snnconv.conversion.rules import Rule, kullback_leibler, largest, least_squares, normal, percentile
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.simulation import Simulation


@converts(nn.ReLU, only_variants=True)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    neuron: Callable[..., nn.Module] = IntegrateFire,
    rule: Rule,
    levels: int = 8,
    per_channel: bool = False,
    momentum: float | None = None,
    batch_size: int = 50,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with a neuron in place of each ReLU; `rule` computes θ from the activations on `batches`.

    There is one θ per layer, or one per channel (`per_channel`).  `levels` is the number of levels for rules that quantize.  With
    `momentum` m the rule is applied to `batch_size` images at a time, θ ← m·θ + (1 − m)·rule(batch).

    ValueError without images, naming a layer that no image activates or that has too few activations for a percentile, or naming
    the path of every layer that cannot be converted.
    """
    sites = [path for path, module in ann.named_modules() if isinstance(module, nn.ReLU)]
    options: dict[str, Any] = {"per_channel": per_channel, "momentum": momentum, "batch_size": batch_size}
    theta = observed_thresholds(ann, sites, batches, rule, levels=levels, **options)
    network = to_spiking(ann, nn.ReLU, lambda path, site: neuron(threshold=theta[path]))
    return SpikingModel(network, Latency(), simulation=simulate)


MAX_NORM = "θ is the largest activation on calibration images.  Diehl et al., IJCNN 2015."
EMA = "θ is the moving average of the largest activation of each calibration batch."
PERCENTILE = "θ is the 99.9th percentile of the activations.  Rueckauer et al., Front. Neurosci. 2017."
MSE = "θ minimizes the squared error between ReLU and its quantization to `levels`.  Li et al., ICML 2021."
KL = "θ minimizes the Kullback-Leibler divergence between ReLU and its quantization to `levels`.  Migacz, GTC 2017."
convert.variant("max_norm", MAX_NORM, rule=largest)
convert.variant("ema", EMA, rule=largest, momentum=0.9)
convert.variant("percentile", PERCENTILE, rule=functools.partial(percentile, percent=99.9))
convert.variant("mse", MSE, rule=least_squares)
convert.variant("kl", KL, rule=kullback_leibler)
NORMAL = "θ minimizes the squared error for currents of a normal distribution, from mean and deviation.  Huang et al., ICML 2025."
convert.variant("normal", NORMAL, rule=normal)
