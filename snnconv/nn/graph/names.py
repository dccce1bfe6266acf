"""Free names for modules and tensors that are added to a graph."""

from collections.abc import Container
from itertools import count

from torch import nn


def free_name(name: str, taken: Container[str]) -> str:
    """`name` with the smallest number of trailing underscores that makes it free.

    >>> free_name("act", {"act", "act_"})
    'act__'
    """
    while name in taken:
        name += "_"
    return name


def numbered_name(name: str, taken: Container[str], first: int = 2) -> str:
    """`name`, or the first of name_2, name_3, … that is free; numbers begin with `first`.

    >>> numbered_name("relu", {"relu", "relu_2"})
    'relu_3'
    """
    if name not in taken:
        return name
    return next(free for number in count(first) if (free := f"{name}_{number}") not in taken)


def attributes(network: nn.Module) -> set[str]:
    """The names that a submodule of `network` cannot have."""
    return {*dir(network), *(name for name, _ in network.named_children())}
