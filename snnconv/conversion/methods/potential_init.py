"""Initial potentials: the same fraction of θ for every neuron (Bu et al., AAAI 2022), or each its own (Li et al., ICML 2021)."""

import copy
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.conversion.method import converts, thresholds, training_of
from snnconv.conversion.rules import Rule, least_squares
from snnconv.data.batches import calibration_images
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.base import per_channel
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.side_by_side import side_by_side
from snnconv.spiking.simulation import Simulation, Timing

KINDS = (QCFS, nn.ReLU)


@converts(*KINDS, rule=least_squares)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    variant: str = "constant",
    rule: Rule | None = None,
    levels: int = 8,
    images: int = 128,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with integrate-and-fire neurons of the same θ, which differ in v(0) only.

    constant    v(0) = θ/2: the expected conversion error of uniformly distributed currents is 0.
    per_neuron  v(0) = θ/2 + T·mean(a − s̄), separately for each T: a is the ANN's activation, and s̄ the neuron's mean output over T
                steps that start from θ/2, once all earlier layers have their v(0); the mean is over the first `images` calibration
                images.  The authors' code spreads θ/2 evenly over the T steps (yhhhli/SNN_Calibration, models/spiking_layer.py).

    Trained thresholds are not changed; thresholds of ReLU networks are computed by `rule` with `levels`.  ValueError for another
    `variant`, without images where they are needed, or naming the path of every layer that cannot be converted.
    """
    if variant not in ("constant", "per_neuron"):
        raise ValueError(
            f"method.variant={variant!r}: constant (θ/2 everywhere) or per_neuron (θ/2 and a correction for each neuron)"
        )
    theta, ann = thresholds(ann, KINDS, batches, rule, levels=levels), copy.deepcopy(ann)
    latency = Latency(needs_training=training_of(ann))

    constant = to_spiking(ann, KINDS, lambda path, site: IntegrateFire(theta[path]))
    if variant == "constant":
        return SpikingModel(constant, latency, simulation=simulate)
    per_neuron = functools.partial(with_potentials, ann, theta, calibration_images(batches, images))
    return SpikingModel(constant, latency, Timing(anytime=False), for_timesteps=per_neuron, simulation=simulate)


def with_potentials(ann: nn.Module, theta: Mapping[str, Any], images: Tensor, timesteps: int) -> nn.Module:
    """`ann` with neurons of thresholds `theta` (by path); v(0) corrects their mean outputs on `images` over `timesteps` steps."""
    network = to_spiking(ann, KINDS, lambda path, site: IntegrateFire(theta[path]))
    for site in side_by_side(ann, network, images, timesteps):
        missing = timesteps * (site.activation - site.output().mean(0)).mean(0)
        level = per_channel(torch.as_tensor(theta[site.path]).to(missing), missing, axis=0)
        site.clock.neuron = IntegrateFire(theta[site.path], 0.5 + missing / level)
    return network
