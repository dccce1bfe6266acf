"""The lossless reference: ST-BIF neurons settle to the quantized network itself.  You et al., ICML 2024 (SpikeZIP-TF)."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.biases import homogeneous
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
    """`ann` with `neurons.st_bif.STBIF` of its own θ and L in the place of its activations; `batches` is unused.

    Image and biases are given in parts, in the first `presented` steps (by default the largest L), and nothing afterwards.  So
    every current ends, and after enough steps each layer has emitted its activation, and the readout the logits, *in sum*: the
    mean of T steps is a T-th of them, with the same argmax.  ValueError if `presented` is out of range, or naming what cannot be
    carried.
    """
    if presented is not None and (isinstance(presented, bool) or not isinstance(presented, int) or presented < 1):
        raise ValueError(
            f"method.presented={presented!r}: steps in which the image is given, an integer of at least 1, or null"
        )
    levels = max(site.levels for site in ann.modules() if isinstance(site, QCFS))
    network = to_spiking(ann, QCFS, lambda path, site: STBIF(site.threshold.item(), site.levels))
    for module in network.modules():
        if isinstance(module, RunningMean):
            module.normalized = False  # inputs are given in parts, so sums stand for activations
    return SpikingModel(
        homogeneous(network, OverTime),
        Latency(signed=True, needs_training="activation"),
        Timing(presented=presented or levels),
        simulation=simulate,
    )
