"""The choice of an operator for each non-linear layer.

A choice is a function (layer, number of its signals, whether they are spikes) → operator, or None if the layer is not supported.
Each yaml in conf/operators/ names one choice.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from snnconv.spiking.operators.base import Operator
from snnconv.spiking.operators.max_count import MaxCount
from snnconv.spiking.operators.running_mean import RunningMean
from snnconv.spiking.operators.winner import WITH_INDICES, Winner

Choice = Callable[[nn.Module, int, bool], Operator | None]
MAX_POOLING = tuple(WITH_INDICES)
EXTRA: list[type[nn.Module]] = []  # classes of users


def operator(kind: type[nn.Module]) -> type[nn.Module]:
    """Class decorator: conversion replaces modules of this class by an operator whose function F is the module.

    Its `forward` must have no state, and the output of a sample must not depend on other samples.
    """
    EXTRA.append(kind)
    return kind


def auto(layer: nn.Module, signals: int, spikes: bool) -> Operator | None:
    """Max pooling of spike counts for max pooling (exact, binary for spikes), else a running mean (exact, analog)."""
    return MaxCount(layer) if isinstance(layer, MAX_POOLING) else RunningMean(layer, signals)


def running_mean(layer: nn.Module, signals: int, spikes: bool) -> Operator | None:
    """A running mean for every layer."""
    return RunningMean(layer, signals)


def winner(layer: nn.Module, signals: int, spikes: bool) -> Operator | None:
    """Max pooling of spikes by the leading input; a running mean for every other layer."""
    return Winner(layer) if spikes and isinstance(layer, MAX_POOLING) else RunningMean(layer, signals)


def none(layer: nn.Module, signals: int, spikes: bool) -> Operator | None:
    """No operator: non-linear layers after the first neuron raise an error."""
    return None


CHOICES: dict[str, Choice] = {"auto": auto, "running_mean": running_mean, "winner": winner, "none": none}


def choice_of(operators: Any) -> Choice:
    """The choice called `operators`, or `operators` if it is a function; ValueError for anything else.

    >>> choice_of("winner") is winner
    True
    """
    chosen = CHOICES.get(operators) if isinstance(operators, str) else operators
    if not callable(chosen):
        raise ValueError(
            f"operators={operators!r}: must be one of {', '.join(CHOICES)}, or a function of (layer, signals, spikes)"
        )
    return chosen
