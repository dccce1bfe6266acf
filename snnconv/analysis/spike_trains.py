"""Spike trains of some neurons, for a raster plot."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from snnconv.spiking.model import SpikingModel
from snnconv.spiking.recording import recording

SHOWN = 24  # neurons of a layer in the raster


def spike_trains(snn: SpikingModel, batches: Iterable[tuple[Tensor, Any]], timesteps: int) -> dict[str, Tensor]:
    """Spikes [T, neurons] of the first, a middle and the last layer for the first image, warm-up included.

    Of each layer at most `SHOWN` neurons, chosen evenly from those that fire.
    """
    image = next(iter(batches))[0][:1]
    paths = list(snn.neurons())
    trains: dict[str, list[Tensor]] = {path: [] for path in (paths[0], paths[len(paths) // 2], paths[-1])}

    def observe(path: str, spikes: Tensor) -> None:
        if path in trains:  # all layers at every step would be too much to keep
            trains[path].append(spikes[:, :1].flatten(1).cpu())

    snn.prepare(timesteps)
    with recording(snn, observe):
        snn(image, timesteps)
    return {path: _some(torch.cat(spikes)) for path, spikes in trains.items()}


def _some(spikes: Tensor) -> Tensor:
    firing = spikes.any(0).nonzero().flatten()
    every = firing if len(firing) else torch.arange(spikes.shape[1])
    return spikes[:, every[torch.linspace(0, len(every) - 1, min(SHOWN, len(every))).long()]]
