"""Energy of a converted network and of its ANN, estimated from counted operations and tables of costs.

Nothing is measured on hardware; the rule of every value is stated.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from snnconv.analysis.costs import DEFAULT, Costs, TableNames, tables_of
from snnconv.analysis.counterpart import counterpart
from snnconv.analysis.operations import Operations, count_operations, listed_timesteps
from snnconv.data.batches import Batches
from snnconv.data.loaders import Loader, device_of
from snnconv.spiking.model import SpikingModel

WIDTH = 80  # of a printed table, in characters
FIRST_LAYER = {
    "every_step": "The SNN computes the first layer, which receives the image, in every step that receives the image.",
    "once": "The SNN computes the first layer, which receives the image, once and stores its current for all steps.",
}
RULES = (
    "ANN: one multiply-accumulate (MAC) for each product of a weight and a value, one addition for each value on a shortcut "
    "without weights. Products with padding are not counted (most FLOP counters count them); pooling and activations are not "
    "counted either.",
    "Quantized ANN: the same network with as many levels as the SNN can distinguish in T steps (T times the largest number of "
    "spikes in one step), so b = ceil(log2(levels + 1)) bits; a MAC with b bits is b shifted accumulates, but at most a full MAC. "
    "The first layer, which receives the image, and a weight layer that directly follows another one need full MACs.",
    "SNN: one accumulate for each weight that a spike reaches: n spikes count n, signed spikes |n|; on a shortcut without weights "
    "one for each spike. Padding contains no spikes; weights that are 0 are counted. A spike that passes through average pooling "
    "reaches all weights that the pooled cells reach. Spikes of warm-up steps and of look-ahead steps are included.",
    "SNN: an operator in floating point needs, in every step, one accumulate for each value that is added to a running sum, two "
    "MACs for each output value (the function, and the difference of two means), and the MACs of products of signals. Weights "
    "that receive its output need full MACs. For max pooling of spike counts every received spike is counted as passed on, which "
    "is an upper bound.",
    "SNN: one neuron update (bias, comparison, reset) for each neuron and step; the transport of spikes is free.",
    "Memory, if a table includes it: a MAC reads one weight and one activation; an accumulate reads one weight, and reads and "
    "writes one potential; an update reads and writes one potential; the ANN writes every activation once. There is one access "
    "for `reuse` operations.",
)  # fmt: skip


@dataclass(frozen=True)
class Energy:
    """Estimates in pJ for one image, by path of the layer: the ANN, the equally quantized ANN, and the SNN at each T.

    `costs` are tables by name; `first_layer` is "every_step" or "once" (`FIRST_LAYER`).  ValueError for other values.
    """

    operations: Operations
    costs: Mapping[str, Costs]
    first_layer: str = "every_step"

    def __post_init__(self) -> None:
        if self.first_layer not in FIRST_LAYER:
            raise ValueError(f"first_layer={self.first_layer!r}: must be {' or '.join(FIRST_LAYER)}")
        tables_of(self.costs)

    @property
    def timesteps(self) -> list[int]:
        """Every T, in order."""
        return list(self.operations.accumulates)

    def bits(self, t: int) -> int:
        """Bits of an activation of the quantized ANN: ceil(log2(levels + 1))."""
        return self.operations.levels[t].bit_length()

    def ann(self, table: str) -> dict[str, float]:
        """Energy of the ANN."""
        return {target.path: self.costs[table].of_ann(target) for target in self.operations.targets}

    def quantized(self, table: str, t: int) -> dict[str, float]:
        """Energy of the ANN with as many levels as the SNN can distinguish in `t` steps."""
        return {target.path: self.costs[table].of_ann(target, self.bits(t)) for target in self.operations.targets}

    def snn(self, table: str, t: int) -> dict[str, float]:
        """Energy of the SNN up to its `t`-th counted step."""
        done = self.operations
        computed = 1 if self.first_layer == "once" else done.shown[t]
        return {
            target.path: self.costs[table].of_snn(
                target,
                accumulates=done.accumulates[t][target.path],
                macs=target.constant * computed + target.varying * done.steps[t],
                steps=done.steps[t],
            )
            for target in done.targets
        }

    def wins_until(self, table: str) -> dict[str, int | None]:
        """The largest T at which the SNN costs less than the quantized ANN, and than the ANN; None if there is no such T."""
        ann = sum(self.ann(table).values())
        snn = {t: sum(self.snn(table, t).values()) for t in self.timesteps}
        quantized = {t: sum(self.quantized(table, t).values()) for t in self.timesteps}
        return {
            "quantized": max((t for t in self.timesteps if snn[t] < quantized[t]), default=None),
            "ann": max((t for t in self.timesteps if snn[t] < ann), default=None),
        }

    def as_dict(self) -> dict[str, Any]:
        """For `result.json`."""
        return {
            "what": "estimate in pJ for one image, not measured",
            "rules": [FIRST_LAYER[self.first_layer], *RULES],
            "operations": self.operations.as_dict(),
            "bits": {str(t): self.bits(t) for t in self.timesteps},
            "tables": {name: self._table(name) for name in self.costs},
        }

    def _table(self, name: str) -> dict[str, Any]:
        layers: dict[str, Any] = {
            "ann": self.ann(name),
            "quantized": {str(t): self.quantized(name, t) for t in self.timesteps},
            "snn": {str(t): self.snn(name, t) for t in self.timesteps},
        }
        total = {key: {t: sum(each.values()) for t, each in layers[key].items()} for key in ("quantized", "snn")}
        return {
            "costs": asdict(self.costs[name]),
            "ann": sum(layers["ann"].values()),
            **total,
            "wins_until": self.wins_until(name),
            "layers": layers,
        }

    def __str__(self) -> str:
        """The table of `as_table` as text."""
        text = io.StringIO()
        Console(file=text, width=WIDTH, color_system=None).print(self.as_table())
        return text.getvalue()

    def as_table(self) -> Table:
        """A table for the terminal: for all costs and each T, the SNN, the equally quantized ANN, and the ANN."""
        shown = Table(title=f"Energy: estimates in µJ for one image, counted on {self.operations.images} images")
        shown.add_column("costs", overflow="fold")
        for column in ("T", "SNN", "quantized ANN", "ANN"):
            shown.add_column(column, justify="right", no_wrap=True)
        for name in self.costs:
            for t in self.timesteps:
                energies = self.snn(name, t), self.quantized(name, t), self.ann(name)
                shown.add_row(name if t == self.timesteps[0] else "", str(t), *map(_microjoules, energies))
            wins = self.wins_until(name)
            shown.add_row(
                "SNN costs less up to T =", "", "", *(str(wins[key] or "never") for key in ("quantized", "ann"))
            )
            shown.add_section()
        share = self.operations.spike_driven
        shown.caption = (
            f"{100 * share:.4g} % of the multiply-accumulates of a step (on changing values) are spike-driven"
        )
        return shown

    def layer_table(self, table: str, t: int) -> Table:
        """A table for the terminal: all layers at T = `t` for one table of costs."""
        shown = Table(title=f"Energy at T = {t}, {table}: estimates in µJ for one image")
        for column in ("layer", "MACs", "accumulates", "ANN", f"ANN, {self.bits(t)} bits", "SNN"):
            shown.add_column(column, justify="left" if column == "layer" else "right")
        energies = self.ann(table), self.quantized(table, t), self.snn(table, t)
        for target in self.operations.targets:
            counts = f"{target.macs:,}", f"{self.operations.accumulates[t][target.path]:,.0f}"
            shown.add_row(target.path, *counts, *[_microjoules({"": layers[target.path]}) for layers in energies])
        return shown


def energy(
    model: nn.Module,
    snn: SpikingModel,
    loader: Any,
    timesteps: int | Sequence[int] = 32,
    *,
    images: int = 500,
    costs: TableNames = DEFAULT,
    first_layer: str = "every_step",
) -> Energy:
    """Estimate the energy of `snn` and of `model`, the ANN from which it was converted, from operations counted on images.

    Args:
        model: the ANN from which `snn` was converted; its mode and weights are not changed.
        snn: the spiking network.
        loader: an iterable of (inputs [N, …], targets), for example a DataLoader; targets are not used.
        timesteps: the numbers of timesteps T: a list, or a number T for 1, 2, 4, … and T.
        images: operations are counted on the first `images` samples, and averaged.
        costs: names of tables ("fp32_45nm", "int8_45nm", "fp32_45nm_sram", "int8_45nm_sram"), a `Costs`, or a mapping of name to
            `Costs`; the default is every table.
        first_layer: "every_step" if the first layer is computed in each step, "once" if its current is stored.

    Returns an `Energy` in pJ for one image: `print` shows a table in µJ, `.snn(table, T)` and `.ann(table)` have every layer.

    ValueError for an unknown table, without images, or naming an operation on spikes that cannot be counted.

    >>> import torch
    >>> from torch import nn
    >>> from snnconv.conversion.methods import qcfs
    >>> from snnconv.nn.activations.qcfs import QCFS
    >>> from snnconv.spiking.neurons.integrate_fire import IntegrateFire
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 16), QCFS(4, threshold=1.0), nn.Linear(16, 3))
    >>> snn = qcfs.convert(model, [], neuron=IntegrateFire)
    >>> estimate = energy(model, snn, [(torch.rand(20, 1, 2, 2), None)], timesteps=[2, 8], costs="fp32_45nm")
    >>> estimate.ann("fp32_45nm")["1"]  # 64 multiply-accumulates of 4.6 pJ
    294.4
    """
    batches = loader if isinstance(loader, Batches) else Loader(loader, device_of(model))
    counterpart(model, snn, batches)
    operations = count_operations(snn, batches, listed_timesteps(timesteps), images=images)
    return Energy(operations, tables_of(costs), first_layer)


def _microjoules(layers: Mapping[str, float]) -> str:
    return f"{sum(layers.values()) / 1e6:.4g}"
