"""Signed neurons whose negative threshold falls over time: HA-SNM.  Repository QZQ123414412/SNN, 2026."""

import copy
import functools
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.conversion.method import converts, thresholds, training_of
from snnconv.conversion.rules import Rule, least_squares
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.signed import Signed
from snnconv.spiking.simulation import Simulation, Timing

KINDS = (QCFS, nn.ReLU)


@converts(*KINDS, rule=least_squares)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    first: float = 1.25,
    last: float = 0.5,
    reference: float = 8.0,
    v_initial: float = 0.5,
    levels: int = 8,
    rule: Rule | None = None,
    per_channel: bool = False,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with `neurons.signed.Signed` in place of its activations, whose negative threshold depends on the step and on T.

    A negative spike, which cancels an earlier one, is emitted at v ≤ −m(t)·θ with the factors of `annealed`: early in a run an
    overshoot may still correct itself, in the last steps it must be cancelled.  `signed_snm` is m = 1.  θ is the trained threshold,
    or is computed by `rule` from calibration images.  ValueError for settings out of range, a network that cannot be converted, or
    missing images.
    """
    for name, value in {"first": first, "last": last, "reference": reference}.items():
        if not (isfinite(value) and value > 0):
            raise ValueError(f"method.{name}={value}: must be a positive number")
    theta = thresholds(ann, KINDS, batches, rule, levels=levels, per_channel=per_channel)
    build = functools.partial(_annealed_network, copy.deepcopy(ann), theta, v_initial, (first, last, reference))
    return SpikingModel(
        build(levels),
        Latency(signed=True, needs_training=training_of(ann)),
        Timing(anytime=False),
        for_timesteps=build,
        simulation=simulate,
    )


def _annealed_network(
    ann: nn.Module, theta: Mapping[str, Any], v_initial: float, schedule: tuple[float, float, float], timesteps: int
) -> nn.Module:
    factors = annealed(*schedule, timesteps)
    return to_spiking(ann, KINDS, lambda path, _: Signed(theta[path], v_initial, factors))


def annealed(first: float, last: float, reference: float, timesteps: int) -> Float[Tensor, "T"]:
    """m(t) = 1 + min(1, reference/T)·(first + (last − first)·(t − 1)/(T − 1) − 1) for t = 1 … T, in float64.

    The line goes from `first` to `last`; for T above `reference` it approaches 1, the rule of SNM.
    """
    line = torch.linspace(first, last, timesteps, dtype=torch.float64)
    return 1 + min(1.0, reference / timesteps) * (line - 1)
