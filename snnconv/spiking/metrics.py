"""Metrics of torchmetrics by name, which tables show beside the score of a task."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Measure:
    """A metric of torchmetrics, of which each T gets a copy; `percent` shows it times 100."""

    metric: Any
    percent: bool = False

    @property
    def higher_is_better(self) -> bool:
        """As torchmetrics has it; of a correlation it says nothing."""
        return self.metric.higher_is_better is not False

    def start(self, device: Any) -> Any:
        """A fresh copy on `device`."""
        return copy.deepcopy(self.metric).to(device)


def measure(name: str, percent: bool = False, **options: Any) -> Measure:
    """The class `name` of torchmetrics ("MeanAbsoluteError") with `options`; ValueError if there is none, or it does not fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports plotting libraries that warn about each other
        import torchmetrics  # takes a second, so only who uses it waits

    kind = getattr(torchmetrics, name, None)
    if not (isinstance(kind, type) and issubclass(kind, torchmetrics.Metric)):
        raise ValueError(f"name={name}: no metric of torchmetrics")
    if options.get("task", "") is None:
        raise ValueError(
            f"metric {name}: is for classes and labels; the numbers of task=regress take mae, mse, rmse, r2, pearson"
        )
    try:
        return Measure(kind(**options), percent)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metric {name}: {error}") from error


def update(metric: Any, outputs: Tensor, targets: Tensor) -> None:
    """Add a batch; columns of one number are given as [N]."""
    if outputs.dim() == 2 and outputs.shape[1] == 1:
        outputs, targets = outputs[:, 0], targets.reshape(len(targets), -1)[:, 0]
    labels = hasattr(metric, "num_labels") and not hasattr(metric, "num_outputs")
    metric.update(outputs.float().contiguous(), (targets.long() if labels else targets).contiguous())


def flat(name: str, value: Any, classes: Sequence[str] | None = None) -> Mapping[str, float]:
    """A value as numbers by name: one for each class, "name/class", where there are several."""
    if not isinstance(value, Tensor) or value.numel() == 1:
        return {name: float(value)}
    names = classes if classes is not None and len(classes) == len(value) else range(len(value))
    return {f"{name}/{each}": number for each, number in zip(names, value.tolist(), strict=True)}
