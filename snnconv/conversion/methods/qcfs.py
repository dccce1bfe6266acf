"""Direct conversion: each QCFS becomes an integrate-and-fire neuron of the same threshold.  Bu et al., ICLR 2022."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.kinds import trained_threshold
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.simulation import Simulation


@converts(QCFS)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    neuron: Callable[..., nn.Module] = IntegrateFire,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` as a spiking network.  Thresholds come from training, so `batches` is unused.

    ValueError naming the path of every layer that cannot be converted.
    """
    network = to_spiking(ann, QCFS, lambda path, site: neuron(threshold=trained_threshold(site)))
    return SpikingModel(network, Latency(needs_training="activation"), simulation=simulate)
