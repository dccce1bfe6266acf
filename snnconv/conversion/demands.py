"""Demands on a spiking network, made before a training: what would stop a run after it, in simulation, is an error here."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from snnconv.runtime.compilation import require_compiler
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.simulation import wanted_timesteps

log = logging.getLogger(__name__)
# Of a spiking network and a few images; ValueError if something will fail.
Demand = Callable[[SpikingModel, Tensor], None]
IMAGES = 2


def simulation(timesteps: int | Sequence[int]) -> Demand:
    """The demand that simulates two images for the first of the wanted `timesteps` above 1, as the settings of the network say.

    Nothing is compiled; it is only asked whether there is a compiler.  ValueError if the simulation fails.
    """
    wanted = wanted_timesteps(timesteps)
    steps = next((t for t in wanted if t > 1), wanted[-1])

    def simulated(snn: SpikingModel, images: Tensor) -> None:
        snn.to(images.device)
        chosen, layerwise = snn.simulation, snn.simulation.layerwise(images.device.type)
        if chosen.compiles:
            require_compiler("simulate.compile=none")
        for schedule, used in (("step", not layerwise), ("layer", layerwise)):
            if not used and chosen.schedule != "auto":
                continue
            failure = _failure(snn, images[:IMAGES], steps, schedule)
            snn.simulation = chosen
            if failure and used:
                raise ValueError(failure)
            if failure:
                log.warning("%s", failure)

    return simulated


def _failure(snn: SpikingModel, images: Tensor, timesteps: int, schedule: str) -> str | None:
    """The reason why `images` cannot be simulated in this schedule, None if they can."""
    snn.simulation = replace(snn.simulation, schedule=schedule, compile="none")
    try:
        with torch.random.fork_rng(devices=[]):
            snn(images, timesteps)
    except Exception as error:  # operations are the user's: anything can come out
        reason = str(error).partition("\n")[0] or type(error).__name__
        return f"simulate.schedule={schedule}: cannot be simulated ({reason}); {_remedy(schedule)}"
    return None


def _remedy(schedule: str) -> str:
    return "choose simulate.schedule=step" if schedule == "layer" else "choose another method"
