"""Burst neurons: a neuron may emit several spikes in one step to release its residual potential.  Li & Zeng, IJCAI 2022."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts, thresholds, training_of
from snnconv.conversion.rules import Rule, percentile
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.burst import Burst
from snnconv.spiking.simulation import Simulation

KINDS = (QCFS, nn.ReLU)


@converts(*KINDS, rule=functools.partial(percentile, percent=99.9))
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    gamma: int = 5,
    share: float = 1.0,
    v_initial: float = 0.0,
    levels: int = 8,
    rule: Rule | None = None,
    per_channel: bool = False,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with neurons that emit up to γ = `gamma` spikes of `share`·θ in a step, from v(0) = `v_initial` · `share`·θ.

    θ is the trained threshold, or is computed by `rule` from calibration images.  The output of a neuron in one step is at most
    γ·`share`·θ; the activation clips at θ.  `share` = 1/γ makes both limits equal; `share` = 1 permits bursts above θ.
    ValueError for settings out of range, a network that cannot be converted, or missing images.
    """
    if isinstance(gamma, bool) or not isinstance(gamma, int) or gamma < 1:
        raise ValueError(f"method.gamma={gamma!r}: must be an integer of at least 1 (spikes of one neuron in one step)")
    if not (math.isfinite(share) and share > 0):
        raise ValueError(
            f"method.share={share}: must be a positive number (size of one spike as a fraction of θ: 1, or 1/γ)"
        )
    theta = thresholds(ann, KINDS, batches, rule, levels=levels, per_channel=per_channel)
    network = to_spiking(ann, KINDS, lambda path, _: Burst(share * theta[path], gamma, v_initial))
    return SpikingModel(network, Latency(spike_levels=gamma, needs_training=training_of(ann)), simulation=simulate)
