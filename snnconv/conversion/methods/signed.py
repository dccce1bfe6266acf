"""Signed neurons with memory: a negative spike cancels an earlier one, by the rule of Fast-SNN or of SNM."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts, thresholds, training_of
from snnconv.conversion.rules import Rule, largest, least_squares
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.signed import Signed
from snnconv.spiking.simulation import Simulation

KINDS = (QCFS, nn.ReLU)


@converts(*KINDS, negative=0.001, v_initial=0.5, rule=least_squares)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    negative: float,
    v_initial: float,
    levels: int = 8,
    rule: Rule | None = None,
    per_channel: bool = False,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with `neurons.signed.Signed` in place of its activations.

    `negative` and `v_initial` select the rule: that of Hu et al., TPAMI 2023 (Fast-SNN), or that of Wang et al., IJCAI 2022 (SNM).
    In Fast-SNN a layer waits for the whole spike train of the layer before it; here every layer gives its output in the same step.
    θ is the trained threshold, or is computed by `rule` from calibration images.  ValueError for settings out of range, a network
    that cannot be converted, or missing images.
    """
    theta = thresholds(ann, KINDS, batches, rule, levels=levels, per_channel=per_channel)
    network = to_spiking(ann, KINDS, lambda path, _: Signed(theta[path], v_initial, negative))
    return SpikingModel(network, Latency(signed=True, needs_training=training_of(ann)), simulation=simulate)


SNM = "Signed neurons with memory: a negative spike cancels an earlier one when v ≤ −θ.  Wang et al., IJCAI 2022."
convert.variant("signed_snm", SNM, negative=1.0, v_initial=0.0, rule=largest)
