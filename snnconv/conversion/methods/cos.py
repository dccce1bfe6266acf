"""Calibrating offset spikes: every neuron simulates its first inputs, then corrects its v(0).  Hao et al., ICLR 2023."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.kinds import trained_threshold
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.offset_spikes import OffsetSpikes
from snnconv.spiking.simulation import Simulation, Timing


@converts(QCFS)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    warmup: int = 4,
    iterations: int = 1,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with `neurons.offset_spikes`: a layer waits for the first ρ = `warmup` outputs of the layer before it.

    With `iterations` = ρ, the spike counts of every layer over the first ρ steps equal QCFS with L = ρ, so the mean logits at
    T = ρ equal the logits of that ANN.  Thresholds come from training; `batches` is unused.  The paper counts ρ once, but a
    network of depth D gives its first output after D·ρ steps.  ValueError for settings out of range, or naming every layer that
    cannot be converted.
    """
    if type(warmup) is not int or warmup < 1:
        raise ValueError(f"method.warmup={warmup}: must be an integer of at least 1; for no warm-up use method=qcfs")
    if type(iterations) is not int or not 1 <= iterations <= warmup:
        raise ValueError(f"method.iterations={iterations}: must be an integer from 1 to {warmup}, the largest number of spikes "
                         f"that can be missing in method.warmup={warmup} steps")  # fmt: skip
    network = to_spiking(ann, QCFS, lambda path, site: OffsetSpikes(trained_threshold(site), warmup, iterations))
    latency = Latency(warmup=warmup, waits=True, needs_training="activation")
    return SpikingModel(network, latency, Timing(lookahead=warmup), simulation=simulate)
