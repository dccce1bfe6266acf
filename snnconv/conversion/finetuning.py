"""Training after conversion, from a Python program: `finetune`."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from snnconv.conversion.registry import CALIBRATION, convert
from snnconv.conversion.trainable import plain, trainable
from snnconv.data.loaders import Loader, device_of
from snnconv.nn.graph.folding import fold_batchnorm, unfold_amplitudes
from snnconv.runtime.settings import require_known
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.training.through_time import Settings, defaults, train_through_time


def finetune(
    snn: nn.Module,
    train: Any,
    *,
    timesteps: int,
    epochs: int = 5,
    lr: float = 2e-4,
    teacher: nn.Module | None = None,
    simulation: Any = None,
    **settings: Any,
) -> SpikingModel:
    """A copy of the spiking network `snn` whose weights and thresholds were trained for T = `timesteps`, through time.

    `snn` is a `SpikingModel` of plain integrate-and-fire neurons (method "qcfs", "mse", "percentile", …), or an ANN, which is first
    converted (`convert`, with `train` as calibration).  It is not changed.  Gradients pass the spikes by a surrogate
    (Neftci et al., 2019); the neurons stay plain, so inference costs nothing more.

    `train` is any iterable of (inputs [N, …], targets [N] of class numbers) that can be passed through again in each epoch.
    `teacher` is a network whose outputs are learned as well: `distill` is its share of the loss (default 1, all of it; the rest is
    cross-entropy).  By default an ANN given as `snn` teaches, and a `SpikingModel` learns from the targets alone.

    `lr` is the largest learning rate, of AdamW with half a cosine.  Other settings are those of conf/method/finetune.yaml
    (`training.through_time.Settings`): loss, thresholds, surrogate, sharpness, momentum, weight_decay, temperature, ….
    `simulation` holds settings of conf/simulate/ for the result; by default they are those of a `SpikingModel` given as `snn`.

    ValueError for settings that make no sense, or naming a neuron that cannot be trained; TrainingError if the loss is not finite.

    >>> import torch
    >>> from torch import nn
    >>> from snnconv.conversion.finetuning import finetune
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> batches = [(torch.rand(20, 4), torch.randint(3, (20,))) for _ in range(5)]
    >>> snn = finetune(model, batches, timesteps=2, epochs=1)
    >>> snn(torch.rand(5, 4), timesteps=2).shape
    torch.Size([2, 5, 3])
    """
    if isinstance(train, Iterator):
        raise ValueError(
            "train: an iterator gives its batches once, and every epoch needs them; use a list or a DataLoader"
        )
    require_known(settings, defaults(), "finetune")
    batches = Loader(train, device_of(snn), labelled=True)
    if isinstance(snn, SpikingModel):
        start = copy.deepcopy(snn)
        start.network = unfold_amplitudes((start.exact or start).network, OverTime)
        if teacher is None:
            settings.setdefault("distill", 0.0)
    else:
        start = convert(snn, batches.first(CALIBRATION), simulation={"fold_threshold": False})
        teacher = teacher or snn
    how = Settings(timesteps=timesteps, epochs=epochs, lr=lr, **settings)
    network = trainable(start, how)
    taught_by = None
    if teacher is not None and how.distill:
        taught_by = fold_batchnorm(teacher).requires_grad_(False)
    train_through_time(network, taught_by, batches, how)
    latency = replace(start.latency, needs_training="weights")
    simulation = snn.simulation if simulation is None and isinstance(snn, SpikingModel) else simulation
    return SpikingModel(plain(network), latency, timesteps=timesteps, facts=how.as_dict(), simulation=simulation)
