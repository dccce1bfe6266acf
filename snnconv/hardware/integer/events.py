"""Operations of an integer network on given images, as the exported Verilog performs them, and their energy."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from snnconv.analysis.costs import Costs
from snnconv.analysis.energy import Energy
from snnconv.analysis.operations import count_operations
from snnconv.hardware.integer.golden import result_of, results
from snnconv.hardware.integer.program import Program, Step
from snnconv.hardware.integer.ranges import ranges
from snnconv.spiking.model import SpikingModel

RULE = (
    "counted: operations of the integer network on these images, times the costs of the table (MACs and scalings: mac). "
    "estimate: snnconv.energy of the float network on the same images, with the first layer computed once."
)


@dataclass(frozen=True)
class Events:
    """Operations per image [N] in all timesteps.  Steps that depend only on the image are counted once, as in snn.v.

    | field | one for each |
    | --- | --- |
    | accumulates | sum of a weight layer that a spike contributes to |
    | macs | sum of a weight layer that another input than 0 and 1 contributes to: images, sums of spikes, currents |
    | scalings | multiplication of a sum by its multiplier, or of a value by the factor of a shortcut or requantization |
    | additions | sum on a shortcut, value other than 0 in a pooling window, and bias of a neuron in a timestep |
    | updates | neuron and timestep |
    """

    accumulates: np.ndarray
    macs: np.ndarray
    scalings: np.ndarray
    additions: np.ndarray
    updates: np.ndarray

    def as_dict(self) -> dict[str, list[int]]:
        """Content for JSON."""
        return {name: counts.tolist() for name, counts in asdict(self).items()}

    def energy(self, costs: Costs) -> np.ndarray:
        """Energy in pJ per image [N]."""
        return ((self.macs + self.scalings) * costs.of_mac() + self.accumulates * costs.of_accumulate()
                + self.additions * costs.of_addition() + self.updates * costs.of_update())  # fmt: skip


def events(program: Program, images: np.ndarray, timesteps: int) -> Events:
    """The operations for integer `images` [N, …]."""
    counts = {name: np.zeros(len(images), np.int64) for name in Events.__dataclass_fields__}
    changing = _changing(program)
    binary = [each.least >= 0 and each.most <= 1 for each in ranges(program, 1)]
    for t, values in enumerate(results(program, images, timesteps)):
        for step, changes in zip(program.steps, changing, strict=True):
            if not (changes or t == 0):
                continue
            if step.kind in ("conv", "linear"):
                name = "accumulates" if binary[step.inputs[0]] else "macs"
                counts[name] += _reached(step, values[step.inputs[0]])
            elif step.kind == "sum_pool":
                counts["additions"] += _reached(step, values[step.inputs[0]])
            for name, kinds in (
                ("scalings", ("conv", "linear", "times", "requantize")),
                ("additions", ("add",)),
                ("updates", ("fire",)),
            ):
                counts[name] += step.size * (step.kind in kinds)
            counts["additions"] += step.size * (step.kind == "fire" and "bias" in step.arrays)
    return Events(**counts)


def energies(
    counts: Events, tables: Mapping[str, Costs], snn: SpikingModel, batches: Iterable, timesteps: int
) -> dict[str, Any]:
    """Energy in pJ per image by table, averaged: of `counts`, and the estimate for `snn` on the same images of `batches`."""
    if not tables:
        return {}
    try:
        operations = count_operations(snn, batches, [timesteps], images=len(counts.updates))
    except ValueError as error:
        estimates: Any = dict.fromkeys(tables, str(error))
    else:
        energy = Energy(operations, tables, first_layer="once")
        estimates = {name: sum(energy.snn(name, timesteps).values()) for name in tables}
    counted = {name: float(counts.energy(table).mean()) for name, table in tables.items()}
    return {
        "rule": RULE,
        **{name: {"counted": counted[name], "estimate": estimates[name]} for name in tables},
    }


def _reached(step: Step, x: np.ndarray) -> np.ndarray:
    """Number of sums per image [N] that elements of `x` other than 0 contribute to."""
    arrays = {"multiplier": np.ones(1, np.int64), "bias": np.zeros(1, np.int64)}
    if "weights" in step.arrays:
        arrays["weights"] = np.ones_like(step.arrays["weights"], np.int64)
    return result_of(step, arrays, [(x != 0).astype(np.int64)]).reshape(len(x), -1).sum(1)


def _changing(program: Program) -> list[bool]:
    """For each step, whether its result changes over time."""
    changing: list[bool] = []
    for step in program.steps:
        changing.append(step.kind == "fire" or any(changing[source] for source in step.inputs))
    return changing
