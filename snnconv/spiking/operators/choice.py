"""The choice of an operator for each non-linear layer.

A choice is a function (layer, number of its signals, whether they are spikes) → operator, or None to refuse the layer; each yaml in
conf/operators/ is one.
"""

from collections.abc import Callable

from torch import nn

from snnconv.spiking.operators.base import Operator
from snnconv.spiking.operators.max_count import MaxCount
from snnconv.spiking.operators.running_mean import RunningMean
from snnconv.spiking.operators.winner import WITH_INDICES, Winner

Choice = Callable[[nn.Module, int, bool], Operator | None]
MAX_POOLING = tuple(WITH_INDICES)
EXTRA: list[type[nn.Module]] = []  # classes of users


def operator(kind: type[nn.Module]) -> type[nn.Module]:
    """Class decorator: networks that call a module of this class are converted, with the module as the F of an operator.

    Its `forward` must treat every sample of the batch alone and hold no state.
    """
    EXTRA.append(kind)
    return kind


def auto(layer: nn.Module, signals: int, spikes: bool) -> Operator | None:
    """Max pooling of spike counts where pooling receives spikes (exact and binary), else a running mean (exact, analog)."""
    return MaxCount(layer) if isinstance(layer, MAX_POOLING) else RunningMean(layer, signals)


def running_mean(layer: nn.Module, signals: int, spikes: bool) -> Operator | None:
    """A running mean in every place."""
    return RunningMean(layer, signals)


def winner(layer: nn.Module, signals: int, spikes: bool) -> Operator | None:
    """Max pooling of spikes passes those of its leading input; a running mean in every other place."""
    return Winner(layer) if spikes and isinstance(layer, MAX_POOLING) else RunningMean(layer, signals)


def none(layer: nn.Module, signals: int, spikes: bool) -> Operator | None:
    """No operator: non-linear layers behind the first neuron are refused."""
    return None
