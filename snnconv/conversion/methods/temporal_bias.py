"""A bias for every channel and timestep, estimated forward in time: FTBC.  Wu et al., ECCV 2024."""

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.conversion.method import converts, thresholds, training_of
from snnconv.conversion.rules import Rule, least_squares
from snnconv.data.batches import calibration_images
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.kinds import is_activation
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.base import per_channel as by_channel
from snnconv.spiking.neurons.biased import BiasedIntegrateFire
from snnconv.spiking.neurons.no_debt import without_debt
from snnconv.spiking.side_by_side import channel_mean, side_by_side
from snnconv.spiking.simulation import Simulation, Timing

KINDS = (QCFS, nn.ReLU)
Find = Callable[..., Mapping[str, Any]]  # levels → θ by path


@converts(*KINDS, rule=least_squares)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    alpha: float = 0.5,
    rounds: int = 2,
    images: int = 128,
    rule: Rule | None = None,
    levels: int | None = None,
    per_channel: bool = False,
    no_debt: bool = False,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with integrate-and-fire neurons that add a bias b(t) to their current x(t), from v(0) = θ/2.

    The `images` calibration images are divided among the rounds.  In each round, layer by layer and step by step,
    b(t) ← b(t) − α·mean(s(t) − a), where a is the ANN's activation, s(t) the output of the neuron with the present bias, and the
    mean is over images and space.  The neuron then continues with the new b(t).  Before the first round b = 0.  With `no_debt` v is
    not negative before the first spike of a neuron (R0; repository QZQ123414412/SNN), also during calibration.

    b(t) depends only on steps up to t, so the biases for a smaller T are the first of those for a larger T (`anytime`).  Trained
    thresholds are not changed; thresholds of ReLU networks are computed by `rule` with `levels`.  If `levels` is None the rule uses
    levels = T, and the network then depends on T.

    ValueError for settings out of range, without images, or naming the path of every layer that cannot be converted.
    """
    if not 0 < alpha <= 1:
        raise ValueError(
            f"method.alpha={alpha}: must be above 0 and at most 1 (share of the error that a round corrects)"
        )
    if type(rounds) is not int or rounds < 1:
        raise ValueError(f"method.rounds={rounds}: must be an integer of at least 1")
    if levels is not None and (type(levels) is not int or levels < 1):
        raise ValueError(f"method.levels={levels}: must be an integer of at least 1, or null for T")
    ann = copy.deepcopy(ann)  # the caller's network may change before a T is requested
    parts = calibration_images(batches, images).chunk(rounds)
    find = functools.partial(thresholds, ann, KINDS, batches, rule, per_channel=per_channel)
    from_training = all(is_activation(module) for module in ann.modules() if isinstance(module, KINDS))
    return SpikingModel(
        _uncalibrated(ann, find, levels, no_debt, 8),
        Latency(needs_training=training_of(ann)),
        Timing(anytime=from_training or levels is not None),
        for_timesteps=functools.partial(_calibrated, ann, find, levels, no_debt, parts, alpha),
        simulation=simulate,
    )


def _uncalibrated(ann: nn.Module, find: Find, levels: int | None, no_debt: bool, timesteps: int) -> nn.Module:
    """`ann` with biased neurons, b = 0, and the thresholds that `find` returns for `levels` (None: T = `timesteps`)."""
    theta = find(levels=levels or timesteps)
    bias = torch.zeros(timesteps, 1)
    return to_spiking(ann, KINDS, lambda path, site: BiasedIntegrateFire(theta[path], bias, no_debt=no_debt))


def _calibrated(
    ann: nn.Module,
    find: Find,
    levels: int | None,
    no_debt: bool,
    parts: Iterable[Tensor],
    alpha: float,
    timesteps: int,
) -> nn.Module:
    """`ann` with neurons whose biases are calibrated for T = `timesteps`, one round for each of `parts`."""
    network = _uncalibrated(ann, find, levels, no_debt, timesteps)
    for part in parts:
        for site in side_by_side(ann, network, part, timesteps):
            neuron: Any = site.clock.neuron
            bias = temporal_bias(site.current(), site.activation, neuron.threshold, neuron.node.bias, alpha, no_debt)
            site.clock.neuron = BiasedIntegrateFire(neuron.threshold, bias, no_debt=no_debt)
    return network


@torch.no_grad()
def temporal_bias(
    current: Float[Tensor, "T N C *space"],
    activation: Float[Tensor, "N C *space"],
    threshold: float | Tensor,
    bias: Float[Tensor, "T #C"],
    alpha: float,
    no_debt: bool = False,
) -> Float[Tensor, "T C"]:
    """`bias` after one round, for one layer that receives `current` and whose target output in every step is `activation`."""
    theta = torch.as_tensor(threshold).to(current)
    theta = by_channel(theta, activation)
    v, fired, rows = torch.zeros_like(activation) + theta / 2, torch.zeros_like(activation), []
    for x, b in zip(current, bias.to(current), strict=True):
        v = v + x + by_channel(b, v)
        correction = alpha * channel_mean(theta * (v >= theta).to(v) - activation)
        rows.append(b - correction)
        v = v - by_channel(correction, v)
        spikes = (v >= theta).to(v)
        v = v - theta * spikes
        if no_debt:
            v, fired = without_debt(spikes, v, fired)
    return torch.stack(rows)
