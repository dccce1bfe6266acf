"""Accuracy, metrics and confusion of a network without spikes."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from snnconv.data.loaders import Loader, device_of
from snnconv.runtime import distributed
from snnconv.runtime.error_notes import noting_inputs
from snnconv.spiking.confusion import Confusion, Counts
from snnconv.spiking.metrics import flat
from snnconv.spiking.tally import add, require_images, started
from snnconv.spiking.tasks import Task


@dataclass(frozen=True)
class Measured:
    """Values of one pass over the data."""

    accuracy: float  # of another task the mean score
    metrics: dict[str, float] = field(default_factory=dict)  # of the task, by name
    confusion: Confusion | None = None  # None for another task than classification


@torch.no_grad()
def measured(network: nn.Module, loader: Any, task: Task, *, details: bool = True) -> Measured:
    """Accuracy of `network` by `task`, and with `details` metrics and confusion, in eval mode; its mode is restored.

    `loader` as in `accuracy`.  ValueError if there are no images.
    """
    device, was_training = device_of(network), network.training
    counts, metrics = torch.zeros(2, dtype=torch.float64, device=device), started(task, device) if details else {}
    confusion = Counts(task)
    network.eval()
    for inputs, targets in Loader(loader, device, labelled=True):
        with noting_inputs(network, inputs, targets):
            outputs = network(inputs)
            if not counts[1]:
                task.require_scored(outputs, targets)
            correct = task.right(outputs, targets).sum().double()
        counts += torch.stack([correct, torch.full_like(correct, len(targets))])
        if details:
            add(metrics, task, outputs, targets)
        confusion.add(outputs, targets)
    network.train(was_training)
    correct, total = distributed.sum_over_ranks(counts).tolist()
    require_images(total)
    return Measured(correct / total, _values_of(metrics), confusion.total(total))


def _values_of(metrics: dict[str, Any]) -> dict[str, float]:
    """Values by name; a metric of each class gives several, "name/class"."""
    return {key: number for name, metric in metrics.items() for key, number in flat(name, metric.compute()).items()}
