"""Metrics of torchmetrics by name; tables show them next to the score of a task."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Measure:
    """A metric of torchmetrics, copied for each T; with `percent` it is shown times 100.

    `name` and `options` are the arguments of `measure`; a metric without them cannot be saved with a network.
    """

    metric: Any
    percent: bool = False
    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def higher_is_better(self) -> bool:
        """As torchmetrics states it; True where torchmetrics states nothing (correlations)."""
        return self.metric.higher_is_better is not False

    def as_dict(self) -> dict[str, bool]:
        """For result files: how its values are read."""
        return {"higher_is_better": self.higher_is_better, "percent": self.percent}

    def start(self, device: Any) -> Any:
        """A fresh copy on `device`."""
        return copy.deepcopy(self.metric).to(device)


def measure(name: str, percent: bool = False, **options: Any) -> Measure:
    """The class `name` of torchmetrics ("MeanAbsoluteError") with `options`; ValueError for an unknown name or wrong options."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports plotting libraries that warn about each other
        import torchmetrics  # takes a second, so it is imported only when needed

    kind = getattr(torchmetrics, name, None)
    if not (isinstance(kind, type) and issubclass(kind, torchmetrics.Metric)):
        raise ValueError(f"name={name}: not a metric of torchmetrics")
    if options.get("task", "") is None:
        raise ValueError(
            f"metric {name}: is for classes and labels; for task=regress use mae, mse, rmse, r2 or pearson"
        )
    try:
        return Measure(kind(**options), percent, name, options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metric {name}: {error}") from error


def update(metric: Any, outputs: Tensor, targets: Tensor) -> None:
    """Add a batch; a single column [N, 1] is passed as [N]."""
    if outputs.dim() == 2 and outputs.shape[1] == 1:
        outputs, targets = outputs[:, 0], targets.reshape(len(targets), -1)[:, 0]
    labels = hasattr(metric, "num_labels") and not hasattr(metric, "num_outputs")
    metric.update(outputs.float().contiguous(), (targets.long() if labels else targets).contiguous())


def flat(name: str, value: Any, classes: Sequence[str] | None = None) -> Mapping[str, float]:
    """The value of a metric as numbers by name; several values (one per class) are called "name/class"."""
    if not isinstance(value, Tensor) or value.numel() == 1:
        return {name: float(value)}
    names = classes if classes is not None and len(classes) == len(value) else range(len(value))
    return {f"{name}/{each}": number for each, number in zip(names, value.tolist(), strict=True)}
