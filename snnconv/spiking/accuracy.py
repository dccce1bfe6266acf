"""Accuracy of a network, and of a spiking network at every timestep, counted exactly over any number of processes."""

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.data.loaders import Loader, device_of
from snnconv.runtime import distributed
from snnconv.spiking.curve import Curve
from snnconv.spiking.measured import measured
from snnconv.spiking.metrics import flat
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.tally import require_images, shown, tally_of
from snnconv.spiking.tasks import CLASSIFY, Task


@torch.no_grad()
def accuracy(network: nn.Module, loader: Any, task: Task | None = None) -> float:
    """Fraction of the images of `loader` that `network` classifies correctly, in eval mode; its mode is restored.

    For another `task` (`snnconv.spiking.tasks`) the mean score is returned.

    `loader` is an iterable of (images [N, …], classes [N]), for example a DataLoader; its tensors are moved to the device of the
    network.  A `SpikingModel` is evaluated at its own T (`timesteps`).  ValueError if there are no images.

    >>> import torch
    >>> from torch import nn
    >>> from snnconv.spiking.accuracy import accuracy
    >>> accuracy(nn.Identity(), [(torch.eye(3), torch.tensor([0, 1, 1]))])
    0.6666666666666666
    """
    if isinstance(network, SpikingModel):
        (value,) = accuracy_over_time(network, loader, [network.own_timesteps()], rate_images=1).accuracy.values()
        return value
    return measured(network, loader, task or CLASSIFY, details=False).accuracy


@torch.no_grad()
def accuracy_over_time(
    snn: SpikingModel, loader: Any, timesteps: int | Sequence[int] = 32, *, rate_images: int = 500
) -> Curve:
    """Accuracy of `snn` at every t = 1…`timesteps`, or at the listed t.

    `loader` is an iterable of (images [N, …], classes [N]); its tensors are moved to the device of the network.  The prediction
    at t is the argmax of the mean logits up to t.  If the outputs up to t do not depend on T (`timing.anytime`), the network runs
    once, otherwise once for each t.  Spikes are counted on the first `rate_images` images.  ValueError if there are no images.

    >>> import torch
    >>> from torch import nn
    >>> from snnconv.conversion.registry import convert
    >>> from snnconv.spiking.accuracy import accuracy_over_time
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> batches = [(torch.rand(20, 4), torch.randint(3, (20,))) for _ in range(5)]
    >>> curve = accuracy_over_time(convert(model, batches), batches, timesteps=8)
    >>> list(curve.accuracy), curve.images
    ([1, 2, 3, 4, 5, 6, 7, 8], 100)
    """
    _require_spiking(snn)
    batches, start = Loader(loader, device_of(snn), labelled=True), time.perf_counter()
    tallies = [tally_of(snn, batches, part, rate_images) for part in snn.rounds(timesteps)]
    last, prepared = tallies[-1], sum(tally.prepare_seconds for tally in tallies)
    neurons, spikes = last.counts[:, :, 1].sum(1), last.counts[:, :, 0].sum(1)
    return Curve(
        correct={t: right for tally in tallies for t, right in tally.correct.items()},
        metrics=_by_name([tally.metrics for tally in tallies]),
        images=last.images,
        spikes={t: count for tally in tallies for t, count in tally.spikes.items()},
        firing_rate=dict(zip(last.paths, (spikes / neurons).tolist(), strict=True)),
        rates={t: rates for tally in tallies for t, rates in tally.rates.items()},
        mean_firing_rate=float(spikes.sum() / neurons.sum()),
        emitted=(min(tally.emitted[0] for tally in tallies), max(tally.emitted[1] for tally in tallies)),
        changed_predictions=last.changed,
        confusion=last.confusion,
        seconds=time.perf_counter() - start - prepared,
        prepare_seconds=prepared,
    )


@torch.no_grad()
def over_time(snn: SpikingModel, loader: Any, metric: Any, timesteps: int | Sequence[int] = 32) -> dict[int, Any]:
    """`metric` of the mean outputs up to t, for every t = 1…`timesteps` or the listed t.

    `metric` is a function (output [N, …], target) → number, whose values are averaged over the images, or an object with `update`
    and `compute`, such as a metric of torchmetrics, which is copied for each t.  `loader` is the same as in `accuracy_over_time`.

    >>> import torch
    >>> from torch import nn
    >>> from snnconv.conversion.registry import convert
    >>> from snnconv.spiking.accuracy import over_time
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> batches = [(torch.rand(20, 4), torch.randint(3, (20,))) for _ in range(5)]
    >>> list(over_time(convert(model, batches), batches, nn.functional.cross_entropy, timesteps=[2, 8]))
    [2, 8]
    """
    _require_spiking(snn)
    device = device_of(snn)
    batches, values = Loader(loader, device, labelled=True), dict[int, Any]()
    for part in snn.rounds(timesteps):
        each = {t: _Metric(metric, device) for t in part}
        for images, targets in shown(batches):
            logits = snn(images, part[-1])
            means = snn.read(logits).to(logits.dtype)
            for t in part:
                each[t].update(means[t - 1], targets)
        values |= {t: measured.value() for t, measured in each.items()}
    return values


def _require_spiking(snn: Any) -> None:
    """Raise a TypeError if `snn` is not a spiking network."""
    if not hasattr(snn, "rounds"):
        raise TypeError(f"{type(snn).__name__}: expected a spiking network; convert the ANN with snnconv.convert")


class _Metric:
    """A metric with state, or the mean of a function over the images."""

    def __init__(self, metric: Any, device: torch.device) -> None:
        self.state: Any = None
        if hasattr(metric, "update") and hasattr(metric, "compute"):
            self.state = copy.deepcopy(metric)
            self.state = self.state.to(device) if hasattr(metric, "to") else self.state
        self.function, self.total = metric, torch.zeros(2, dtype=torch.float64, device=device)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        if self.state is not None:
            self.state.update(outputs, targets)
        else:
            value = torch.as_tensor(self.function(outputs, targets), dtype=torch.float64, device=self.total.device)
            self.total += torch.stack([value * len(outputs), torch.full_like(value, len(outputs))])

    def value(self) -> Any:
        """The value over all batches, as a float if it is one number."""
        if self.state is not None:
            value = self.state.compute()
            return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        total, images = distributed.sum_over_ranks(self.total).tolist()
        require_images(images)
        return total / images


def _by_name(tallies: list[dict[int, dict[str, Any]]]) -> dict[str, dict[int, float]]:
    """Values by name of the metric and t; a metric with one value per class is split into "name/class"."""
    values: dict[str, dict[int, float]] = {}
    for t, metrics in (item for tally in tallies for item in tally.items()):
        for name, value in metrics.items():
            for key, number in flat(name, value).items():
                values.setdefault(key, {})[t] = number
    return values
