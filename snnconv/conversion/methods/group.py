"""Group neurons: m neurons share one membrane and emit in one step as many spikes as one neuron in m.  Lv et al., ICASSP 2024."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts, thresholds, training_of
from snnconv.conversion.rules import Rule, least_squares
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.burst import Burst
from snnconv.spiking.simulation import Simulation

KINDS = (QCFS, nn.ReLU)


@converts(*KINDS, rule=least_squares)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    members: int = 4,
    rule: Rule | None = None,
    per_channel: bool = False,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with groups of m = `members` neurons of thresholds θ/m, 2θ/m, …, θ on one membrane, v(0) = θ/2m.

    Each threshold that v reaches emits a spike of θ/m, which is subtracted from v.  The group is equal to a burst neuron of
    threshold θ/m with at most m spikes.  One step computes QCFS with L = m; T steps distinguish m·T levels.  θ is the trained
    threshold, or is computed by `rule` (with L = m) from calibration images.  ValueError for settings out of range, a network that
    cannot be converted, or missing images.
    """
    if isinstance(members, bool) or not isinstance(members, int) or members < 1:
        raise ValueError(f"method.members={members!r}: must be an integer of at least 1 (neurons in a group)")
    theta = thresholds(ann, KINDS, batches, rule, levels=members, per_channel=per_channel)
    network = to_spiking(ann, KINDS, lambda path, _: Burst(theta[path] / members, members, v_initial=0.5))
    return SpikingModel(network, Latency(spike_levels=members, needs_training=training_of(ann)), simulation=simulate)
