"""Spiking networks from ReLU networks: thresholds by a rule from calibration images.

Sources of the rules (`conversion.calibration`): Diehl et al., IJCNN 2015 (max-norm); Rueckauer et al., Front. Neurosci. 2017
(percentile); Li et al., ICML 2021 (least squares); Migacz, GTC 2017 (Kullback-Leibler).  Those that scale weights to a threshold
of 1 compute the same spikes as θ here, with the weights left alone.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.calibration import observed_thresholds
from snnconv.conversion.method import converts
from snnconv.conversion.rules import Rule, kullback_leibler, largest, least_squares, percentile
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
    """`ann` with a neuron in the place of each ReLU, its θ by `rule` from the activations on `batches`.

    One θ for the layer, or one for each channel (`per_channel`).  `levels` is what rules that quantize are told.  With
    `momentum` m the rule sees `batch_size` images at a time, θ ← m·θ + (1 − m)·rule(batch).

    ValueError without images, naming a layer that none of them activates or that has too few activations for a percentile, or
    naming the path of every layer that cannot be carried.
    """
    sites = [path for path, module in ann.named_modules() if isinstance(module, nn.ReLU)]
    how: dict[str, Any] = {"levels": levels, "per_channel": per_channel, "momentum": momentum, "batch_size": batch_size}
    theta = observed_thresholds(ann, sites, batches, rule, **how)
    network = to_spiking(ann, nn.ReLU, lambda path, site: neuron(threshold=theta[path]))
    return SpikingModel(network, Latency(), simulation=simulate)


MAX_NORM = "θ is the largest activation on calibration images.  Diehl et al., IJCNN 2015."
EMA = "θ is the moving average of the largest activation of each calibration batch."
PERCENTILE = "θ is what 99.9 % of the activations do not exceed.  Rueckauer et al., Front. Neurosci. 2017."
MSE = "θ of least squared error between ReLU and its quantization to `levels`.  Li et al., ICML 2021."
KL = "θ of least Kullback-Leibler divergence between ReLU and its quantization to `levels`.  Migacz, GTC 2017."
convert.variant("max_norm", MAX_NORM, rule=largest)
convert.variant("ema", EMA, rule=largest, momentum=0.9)
convert.variant("percentile", PERCENTILE, rule=functools.partial(percentile, percent=99.9))
convert.variant("mse", MSE, rule=least_squares)
convert.variant("kl", KL, rule=kullback_leibler)
