"""Differential coding with graded levels: a spike is a change of the mean.  Huang et al., ICML 2025, arXiv 2503.00301."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts, thresholds, training_of
from snnconv.conversion.rules import Rule, percentile
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.kinds import is_activation
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.multi_level import Differential, SignedDifferential
from snnconv.spiking.operators.base import Encoder
from snnconv.spiking.simulation import Simulation

KINDS = (QCFS, nn.ReLU, Encoder)


@converts(*KINDS, rule=functools.partial(percentile, percent=99.9))
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    thresholds_per_sign: int = 4,
    share: float = 0.75,
    levels: int = 8,
    rule: Rule | None = None,
    per_channel: bool = False,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with neurons of 2n thresholds ±θ, ±θ/2, …, n = `thresholds_per_sign`, whose spikes are differences of running means.

    A neuron fires the largest level of which |v| reaches `share`.  A spike of step t changes the mean that the next layers hold by
    a t-th of its level, so a mean that has settled costs no spikes.  Non-linear layers run as running means; where their outputs
    meet weights, a signed neuron makes spikes of them.  θ as trained, or by `rule` from calibration images.
    ValueError for settings out of range, a network that cannot be converted, or missing images.
    """
    theta = thresholds(ann, KINDS, batches, rule, levels=levels, per_channel=per_channel)

    def make(path: str, site: nn.Module) -> nn.Module:
        if isinstance(site, Encoder):
            return SignedDifferential(theta[path], thresholds_per_sign, share)
        return Differential(theta[path], thresholds_per_sign, share, bound=_largest(site))

    network = to_spiking(ann, KINDS, make)
    latency = Latency(spike_levels=2 ** (thresholds_per_sign - 1), signed=True, needs_training=training_of(ann))
    return SpikingModel(network, latency, simulation=simulate)


def _largest(site: Any) -> float:
    """The largest output of an activation: θ of one with a trained threshold, the bound of a clipped ReLU, else infinity."""
    return site.threshold.item() if is_activation(site) else float(getattr(site, "ceiling", math.inf))
