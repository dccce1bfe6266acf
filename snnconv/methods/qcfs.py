"""Direct conversion: each QCFS becomes an integrate-and-fire neuron of the same threshold.  Bu et al., ICLR 2022."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.activations.qcfs import QCFS
from snnconv.spiking import Latency, OverTime, SpikingModel
from snnconv.surgery import fold_batchnorm, replace_modules, require_convertible


def convert(
    ann: nn.Module, batches: Iterable, *, neuron: Callable[..., nn.Module], simulate: Mapping[str, Any] | None = None
) -> SpikingModel:
    """`ann` as a spiking network.  Thresholds come from training, so `batches` is unused.

    ValueError names the path of every layer that cannot be carried.
    """
    require_convertible(ann, QCFS)

    def to_neuron(activation: Any) -> nn.Module:
        return OverTime(neuron(threshold=activation.threshold.item()))

    network = replace_modules(fold_batchnorm(ann), QCFS, to_neuron)
    return SpikingModel(network, Latency(needs_training="activation"), **(simulate or {}))
