"""Parallel conversion: a layer waits for all its inputs; its spike count equals QCFS exactly.  Hao et al., ICML 2025."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.kinds import trained_threshold
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.parallel import Parallel
from snnconv.spiking.simulation import Simulation, Timing


@converts(QCFS)
def convert(
    ann: nn.Module, batches: Iterable, *, simulate: Simulation | Mapping[str, Any] | None = None
) -> SpikingModel:
    """`ann` with `neurons.parallel`: the mean logits at T equal the logits of the ANN in which every QCFS has T levels.

    At T = L they equal the logits of the trained ANN, except that float32 rounding sometimes moves a current across the edge of a
    level.  At any other T accuracy changes as by requantization to T levels.  A network of depth D has its output after D·T steps.

    Thresholds come from training; `batches` is unused.  ValueError naming every layer that cannot be converted.
    """
    network = to_spiking(ann, QCFS, lambda path, site: Parallel(trained_threshold(site)))
    latency = Latency(waits=True, needs_training="activation")
    return SpikingModel(network, latency, Timing(anytime=False, lookahead=None), simulation=simulate)
