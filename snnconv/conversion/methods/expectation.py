"""Multi-threshold neurons and expectation compensation, for networks of any operations.  Huang et al., ACM MM 2024 (ECMT)."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts, thresholds, training_of
from snnconv.conversion.rules import Rule, percentile
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.multi_level import MultiLevel, SignedMultiLevel
from snnconv.spiking.operators.base import Encoder
from snnconv.spiking.simulation import Simulation

KINDS = (QCFS, nn.ReLU, Encoder)


@converts(*KINDS, rule=functools.partial(percentile, percent=99.9))
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    thresholds_per_sign: int = 4,
    share: float = 1.0,
    v_initial: float = 0.5,
    levels: int = 8,
    rule: Rule | None = None,
    per_channel: bool = False,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with neurons of 2n thresholds ±θ, ±θ/2, …, n = `thresholds_per_sign`, one signed spike a step.

    A neuron that replaces an activation emits the largest level of which |v| reaches `share`; its v(0) is `v_initial` times the
    smallest level.  The paper's rule (1, ½) leaves in v, on average, a part of the next level, so every layer puts out too little,
    which adds up over the layers of ReLU networks: on squeezenet1_1 the error at T = 8 is 0.54 (max_norm: 0.31).  With the nearest
    level, `share` ¾ and `v_initial` ¼, nothing is left on average, and it is 0.10 (experiments/any_network).  Other non-linear
    layers run as running means (the paper's expectation compensation); a signed neuron, which fires at 3/4 of a level and starts
    from v(0) = 0, encodes their outputs as spikes before the next weights.  θ is the trained threshold, or is computed by `rule`
    from calibration images.  ValueError for settings out of range, a network that cannot be converted, or missing images.
    """
    theta = thresholds(ann, KINDS, batches, rule, levels=levels, per_channel=per_channel)

    def make(path: str, site: nn.Module) -> nn.Module:
        if isinstance(site, Encoder):
            return SignedMultiLevel(theta[path], thresholds_per_sign)
        return MultiLevel(theta[path], thresholds_per_sign, share, v_initial)

    network = to_spiking(ann, KINDS, make)
    latency = Latency(spike_levels=2 ** (thresholds_per_sign - 1), signed=True, needs_training=training_of(ann))
    return SpikingModel(network, latency, simulation=simulate)
