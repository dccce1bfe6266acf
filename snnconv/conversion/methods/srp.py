"""Residual potential: after some steps of observation, neurons that should not have fired are silent.  Hao et al., AAAI 2023."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.residual_potential import ResidualPotential
from snnconv.spiking.simulation import Simulation, Timing


@converts(QCFS)
def convert(
    ann: nn.Module, batches: Iterable, *, warmup: int = 4, simulate: Simulation | Mapping[str, Any] | None = None
) -> SpikingModel:
    """`ann` with `neurons.residual_potential`, whose first τ = `warmup` steps an image are simulated and not returned.

    All layers ask at the same step.  Thresholds come from training, so `batches` is unused.  Tables of the paper call T what
    follows τ.  ValueError for τ < 1, or naming the path of every layer that cannot be carried.
    """
    if type(warmup) is not int or warmup < 1:
        raise ValueError(
            f"method.warmup={warmup}: at least 1 step of observation, an integer; without any, this is method=qcfs"
        )
    network = to_spiking(ann, QCFS, lambda path, site: ResidualPotential(site.threshold.item(), warmup))
    latency = Latency(warmup=warmup, needs_training="activation")
    return SpikingModel(network, latency, Timing(discard=warmup), simulation=simulate)
