"""Parallel conversion: each layer waits for all its inputs and fires as often as QCFS says, exactly.  Hao et al., ICML 2025."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.parallel import Parallel
from snnconv.spiking.simulation import Simulation, Timing


@converts(QCFS)
def convert(
    ann: nn.Module, batches: Iterable, *, simulate: Simulation | Mapping[str, Any] | None = None
) -> SpikingModel:
    """`ann` with `neurons.parallel`: the mean logits at T are those of the ANN whose every QCFS has T levels.

    So at T = L they are the trained ANN's (up to rounding, which in float32 moves a current over the edge of a level now and
    then), and every other T costs what requantization costs.  A network of depth D answers after D·T steps.

    Thresholds come from training, so `batches` is unused.  ValueError naming every layer that cannot be carried.
    """
    network = to_spiking(ann, QCFS, lambda path, site: Parallel(site.threshold.item()))
    latency = Latency(waits=True, needs_training="activation")
    return SpikingModel(network, latency, Timing(anytime=False, lookahead=None), simulation=simulate)
