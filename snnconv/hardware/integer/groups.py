"""Integer values in a graph, and groups of layers that share one accumulator."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import fx


@dataclass
class Value:
    """The output of a graph node: integers in units of `scale`, of absolute value `bound` at most; or the sums of `group`.

    The unit of sums of a group is proportional to `rate`: it is divided by the size of the window where average pooling becomes a
    sum.
    """

    scale: Any = 1.0  # a number, or a tensor [C]
    bound: Any = 1  # likewise
    signed: bool = False
    group: "Group | None" = None
    rate: Fraction = Fraction(1)


@dataclass(eq=False)
class Group:
    """Weight layers and shortcuts that share one accumulator, and the readers of the sums.

    `rates` holds the `rate` of the sums at every layer (by its path), addition of a shortcut (by its node) and reader.
    """

    layers: list[tuple[fx.Node, Value]] = field(default_factory=list)  # with their inputs
    shortcuts: list[tuple[fx.Node, fx.Node, Value]] = field(default_factory=list)  # (addition, operand, its value)
    readers: list[str] = field(default_factory=list)  # neurons, weight layers, LOGITS
    rates: dict[Any, Fraction] = field(default_factory=dict)

    def read(self, reader: str, rate: Fraction) -> None:
        """Add a reader of the sums."""
        self.readers.append(reader)
        self.rates[reader] = rate

    def window(self, member: Any) -> float:
        """The unit of the sums at a member, relative to the smallest unit of the group: how many of them pooling may add up."""
        return float(self.rates[member] / min(self.rates.values()))

    def depends_on(self, other: "Group") -> bool:
        """Whether `other` reaches a weight layer of this group without a neuron between them."""
        sources = [value.group for _, value in self.layers if value.group is not None]
        return other in sources or any(group.depends_on(other) for group in sources)

    @property
    def name(self) -> str:
        """The path for error messages: the first reader."""
        return self.readers[0] if self.readers else str(self.layers[0][0].target)
