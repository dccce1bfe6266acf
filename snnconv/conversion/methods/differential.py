"""Differential coding with graded levels: a spike is a change of the mean.  Huang et al., ICML 2025, arXiv 2503.00301."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts, thresholds, training_of
from snnconv.conversion.rules import Rule, percentile
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.kinds import is_activation, trained_threshold
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.base import Threshold
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

    A neuron emits the largest level for which |v| ≥ `share`·level.  A spike in step t changes the mean stored by the next layer by
    level/t, so a constant mean needs no further spikes.  Non-linear layers run as running means; a signed neuron encodes their
    outputs as spikes before the next weights.  θ is the trained threshold, or is computed by `rule` from calibration images.
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


def _largest(site: Any) -> Threshold:
    """The largest output of an activation: its trained threshold θ, the bound of a clipped ReLU, or infinity for a ReLU."""
    return trained_threshold(site) if is_activation(site) else float(getattr(site, "ceiling", math.inf))
