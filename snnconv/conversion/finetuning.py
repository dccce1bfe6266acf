"""Training after conversion, from a Python program: `finetune`."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from snnconv.conversion.registry import CALIBRATION, convert
from snnconv.conversion.trainable import plain, trainable
from snnconv.data.loaders import Loader, device_of
from snnconv.nn.graph.folding import fold_batchnorm, unfold_amplitudes
from snnconv.runtime.settings import require_known
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.tasks import Task
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
    task: Task | None = None,
    **settings: Any,
) -> SpikingModel:
    """Train the weights and thresholds of a copy of `snn` through time, for T = `timesteps`, with surrogate gradients.

    `snn` is a `SpikingModel` of plain integrate-and-fire neurons (method "qcfs", "mse", "percentile", …), or an ANN, which is first
    converted (`convert`, with `train` as calibration).  `snn` is not changed.  A surrogate replaces the derivative of the spikes
    (Neftci et al., 2019); the neurons stay plain, so inference costs nothing more.

    `train` is an iterable of (inputs [N, …], targets [N, …]) that can be iterated again in each epoch.  `teacher` is a network
    whose outputs are learned as well; `distill` is its share of the loss (default 1; the rest is the loss of the task).  By default
    the teacher is the ANN given as `snn`; a `SpikingModel` given as `snn` has no teacher and learns from the targets only.

    `lr` is the largest learning rate, of AdamW with half a cosine.  Other settings are those of conf/method/finetune.yaml
    (`training.through_time.Settings`): loss, thresholds, surrogate, sharpness, momentum, weight_decay, temperature, ….
    `simulation` holds settings of conf/simulate/ for the result; by default they are those of a `SpikingModel` given as `snn`.
    `task` gives the loss (`snnconv.spiking.tasks`); by default it is that of `snn`, or classification for an ANN.  The result has
    this task, and the encoder of `snn`.

    ValueError for settings out of range, or naming a neuron that cannot be trained; TrainingError if the loss is not finite.

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
            "train: an iterator can be read only once, but every epoch reads all batches; use a list or a DataLoader"
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
    start.for_task(task or start.task)
    _require_task(start, batches)
    training = Settings(timesteps=timesteps, epochs=epochs, lr=lr, **settings)
    network = trainable(start, training)
    teaching = None
    if teacher is not None and training.distill:
        teaching = fold_batchnorm(teacher).requires_grad_(False)
    train_through_time(network, teaching, batches, training, task=start.task, encoder=start.encoder)
    latency = replace(start.latency, needs_training="weights")
    simulation = snn.simulation if simulation is None and isinstance(snn, SpikingModel) else simulation
    model = SpikingModel(plain(network), latency, timesteps=timesteps, facts=training.as_dict(), simulation=simulation)
    return model.alike(start)


def _require_task(snn: SpikingModel, batches: Loader) -> None:
    """Raise a ValueError unless outputs and targets of the first batch fit the task of `snn`."""
    with torch.random.fork_rng(devices=[]):  # iterating a loader consumes random numbers
        ((inputs, targets),) = batches.first(2)[:1]
    snn.task.require_targets(targets)
    snn.task.require_outputs(snn(inputs, 1)[0], targets)
