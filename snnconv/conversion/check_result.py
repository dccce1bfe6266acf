"""Result of a check: a line for every layer, obstacles with remedies, warnings."""

import io
import logging
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from snnconv.conversion.obstacles import Obstacle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layer:
    """One layer: a row of the table."""

    path: str
    name: str
    shape: tuple[int, ...] | None  # of the output for one image; None if no image got there
    parameters: int
    becomes: str


@dataclass(frozen=True)
class Check:
    """Result of a check: a network without obstacles can be converted; `warnings` do not prevent it."""

    network: str
    layers: list[Layer]
    obstacles: list[Obstacle]
    warnings: list[str]
    methods: list[str]  # methods that accept the unchanged network, if the chosen one does not
    method: str = ""  # name of the chosen method

    def advice(self) -> str:
        """The methods to choose instead, as a sentence; "" if there are none."""
        return f"without changes it can be converted by method={', '.join(self.methods)}" if self.methods else ""

    def show(self, console: Console) -> None:
        """Print the layers, the obstacles with their remedies, the warnings and the verdict."""
        table = Table()
        for column in ("layer", "kind", "output", "parameters", "in the spiking network"):
            table.add_column(column, overflow="fold", justify="right" if column == "parameters" else "left")
        for layer in self.layers:
            style = "red" if layer.becomes.startswith("obstacle") else None
            shape = "–" if layer.shape is None else "×".join(map(str, layer.shape))
            table.add_row(layer.path, layer.name, shape, f"{layer.parameters:,}", layer.becomes, style=style)
        if self.layers:
            console.print(table)
        for kind, color, texts in (("Obstacle", "red", map(str, self.obstacles)), ("Warning", "yellow", self.warnings)):
            for number, text in enumerate(texts, 1):
                console.print(f"{kind} {number}: {text}", style=color, markup=False, highlight=False, soft_wrap=True)
        verb, ending = "cannot" if self.obstacles else "can", f"; {self.advice()}" if self.advice() else ""
        verdict = f"{self.network} {verb} be converted by method={self.method}{ending}."
        console.print(verdict, markup=False, highlight=False, soft_wrap=True)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=120)
        self.show(console)
        return console.file.getvalue()  # type: ignore[attr-defined]

    def require(self) -> None:
        """Raise a ValueError that lists every obstacle, if there is one; warnings are logged."""
        for text in self.warnings:
            log.warning("%s", text)
        if self.obstacles:
            lines = [*map(str, self.obstacles), *filter(None, [self.advice()])]
            raise ValueError("\n  ".join([f"{self.network} cannot be converted:", *lines]))
