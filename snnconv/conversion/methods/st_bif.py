"""Lossless reference: summed outputs of ST-BIF neurons converge to the quantized network.  You et al., ICML 2024 (SpikeZIP-TF)."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.biases import homogeneous
from snnconv.nn.graph.kinds import trained_threshold
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime, to_spiking
from snnconv.spiking.neurons.st_bif import STBIF
from snnconv.spiking.operators.running_mean import RunningMean
from snnconv.spiking.simulation import Simulation, Timing


@converts(QCFS)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    presented: int | None = None,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with `neurons.st_bif.STBIF` of the same θ and L in place of its activations; `batches` is unused.

    The image and the biases are divided into equal parts, one for each of the first `presented` steps (by default the largest L);
    later steps receive nothing.  After enough steps the *sum* of the spikes of a layer equals its activation, and the sum of the
    outputs equals the logits; the mean over T steps is 1/T of the logits, with the same argmax.  ValueError if `presented` is out
    of range, or naming every layer that cannot be converted.
    """
    if presented is not None and (isinstance(presented, bool) or not isinstance(presented, int) or presented < 1):
        raise ValueError(
            f"method.presented={presented!r}: must be an integer of at least 1 (steps that receive the image), or null"
        )
    levels = max(site.levels for site in ann.modules() if isinstance(site, QCFS))
    network = to_spiking(ann, QCFS, lambda path, site: STBIF(trained_threshold(site), site.levels))
    for module in network.modules():
        if isinstance(module, RunningMean):
            module.normalized = False  # inputs are given in parts, so sums (not means) represent activations
    return SpikingModel(
        homogeneous(network, OverTime),
        Latency(signed=True, needs_training="activation"),
        Timing(presented=presented or levels),
        simulation=simulate,
    )
