"""Residual potentials: after a warm-up, neurons that should not have fired are silenced.  Hao et al., AAAI 2023 (SRP)."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from snnconv.conversion.method import converts
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.kinds import trained_threshold
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.residual_potential import ResidualPotential
from snnconv.spiking.simulation import Simulation, Timing


@converts(QCFS)
def convert(
    ann: nn.Module, batches: Iterable, *, warmup: int = 4, simulate: Simulation | Mapping[str, Any] | None = None
) -> SpikingModel:
    """`ann` with `neurons.residual_potential`; the first τ = `warmup` steps of each image are simulated but not returned.

    All layers evaluate their residual potentials after the same step.  Thresholds come from training; `batches` is unused.  In the
    tables of the paper, T does not include τ.  ValueError for τ < 1, or naming the path of every layer that cannot be converted.
    """
    if type(warmup) is not int or warmup < 1:
        raise ValueError(f"method.warmup={warmup}: must be an integer of at least 1; for no warm-up use method=qcfs")
    network = to_spiking(ann, QCFS, lambda path, site: ResidualPotential(trained_threshold(site), warmup))
    latency = Latency(warmup=warmup, needs_training="activation")
    return SpikingModel(network, latency, Timing(discard=warmup), simulation=simulate)
