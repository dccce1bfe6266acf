"""Direct conversion: each QCFS becomes an integrate-and-fire neuron of the same threshold.  Bu et al., ICLR 2022."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.activations.qcfs import QCFS
from snnconv.conversion import converts, to_spiking
from snnconv.spiking import Latency, SpikingModel


@converts(QCFS)
def convert(
    ann: nn.Module, batches: Iterable, *, neuron: Callable[..., nn.Module], simulate: Mapping[str, Any] | None = None
) -> SpikingModel:
    """`ann` as a spiking network.  Thresholds come from training, so `batches` is unused.

    ValueError names the path of every layer that cannot be carried.
    """
    network = to_spiking(ann, QCFS, lambda path, site: neuron(threshold=site.threshold.item()))
    return SpikingModel(network, Latency(needs_training="activation"), **(simulate or {}))
