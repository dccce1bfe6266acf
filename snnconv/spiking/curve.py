"""`Curve`: accuracy against timesteps, with a table and a plot."""

from dataclasses import asdict, dataclass, field
from typing import Any

from snnconv.spiking.confusion import Confusion

ALL = 10  # a curve of up to so many points is printed completely; else powers of two and the last point


@dataclass(frozen=True)
class Rates:
    """Spikes per neuron and timestep, warm-up included."""

    mean: float  # over all neurons
    layers: dict[str, float]


class ByTimestep(dict[int, float]):
    """Values by t; a KeyError lists the timesteps that were measured."""

    def __missing__(self, t: object) -> float:
        """Raise the KeyError."""
        measured = ", ".join(map(str, self)) if len(self) <= ALL else f"{min(self)} to {max(self)}, {len(self)} values"
        raise KeyError(f"{t!r}: accuracy was not measured after this number of timesteps; measured were {measured}")


@dataclass(frozen=True)
class Curve:
    """Accuracy and spike counts against timesteps t; `print(curve)` shows a table.

    `spikes`, `firing_rate`, `mean_firing_rate`, `rates` and `emitted` are measured on the first images only (`rate_images` of
    `accuracy_over_time`).
    """

    correct: dict[int, float]  # correct predictions after t timesteps, by t; for other tasks the sum of the scores
    images: int
    spikes: dict[int, float]  # spikes per image up to t, warm-up included, by t
    firing_rate: dict[str, float]  # spikes per neuron and timestep at the last t, by layer
    mean_firing_rate: float  # the same over all neurons
    emitted: tuple[int, int]  # smallest and largest number of spikes of one neuron in one step
    changed_predictions: float | None  # share of predictions at the last t that differ from float32; None in float32
    seconds: float  # wall time of the evaluation, without prepare_seconds
    prepare_seconds: float  # wall time of building the network for each T, if it depends on T: part of the conversion
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)  # of the task, by name and t
    rates: dict[int, Rates] = field(default_factory=dict)  # firing rates up to t, by t
    confusion: Confusion | None = None  # of the predictions at the last t; None for another task than classification

    @property
    def accuracy(self) -> dict[int, float]:
        """Fraction of images classified correctly, by t."""
        return ByTimestep({t: correct / self.images for t, correct in self.correct.items()})

    def __str__(self) -> str:
        last = max(self.correct)
        shown = [t for t in self.correct if len(self.correct) <= ALL or t & (t - 1) == 0 or t == last]
        more = [name for name in self.metrics if "/" not in name]
        rows = [
            f"{t:>4} {100 * self.accuracy[t]:>10.2f} {self.spikes[t]:>17.0f}"
            + "".join(f" {self.metrics[name][t]:>{max(len(name), 9)}.4g}" for name in more)
            for t in shown
        ]
        heading = "   T accuracy/%  spikes per image" + "".join(f" {name:>9}" for name in more)
        return "\n".join([heading, *rows])

    def as_dict(self) -> dict[str, Any]:
        """Every field and the accuracy, as plain values."""
        return {"accuracy": self.accuracy, **asdict(self), "emitted": list(self.emitted)}

    def plot(self, axes: Any = None) -> Any:
        """Draw accuracy against timesteps on Matplotlib `axes` (by default new axes) and return the axes."""
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.subplots()[1]
        axes.plot(list(self.accuracy), [100 * value for value in self.accuracy.values()], marker=".")
        axes.set(xlabel="timesteps", ylabel="accuracy / %")
        return axes
