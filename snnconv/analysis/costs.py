"""Costs of operations.  Each table is an entry of `TABLES`, and a yaml in conf/costs/ with the same numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from snnconv.analysis.fan_out import Target


@dataclass(frozen=True)
class Costs:
    """Costs of operations in pJ, and widths of their operands in bits.  ValueError for numbers out of range."""

    mac: float  # multiply-accumulate
    accumulate: float
    update: float = 0.0  # update of a neuron in one step
    memory: float = 0.0  # reading or writing one bit
    weight_bits: int = 32
    activation_bits: int = 32  # of the float ANN, and of images
    potential_bits: int = 32
    reuse: float = 1.0  # number of operations for each memory access, in both networks
    source: str = "not stated"

    def __post_init__(self) -> None:
        for field in fields(self)[:-1]:
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"costs: {field.name}={value!r}: must be a number of at least 0 (pJ or bits)")
        if self.reuse < 1:
            raise ValueError(f"costs: reuse={self.reuse}: must be at least 1 (operations for each memory access)")

    def access(self, bits: float) -> float:
        """Energy in pJ to move `bits` bits for one operation."""
        return self.memory * bits / self.reuse

    def width(self, bits: int | None = None) -> int:
        """Bits of an activation in memory: those of the float ANN, or at most `bits`."""
        return self.activation_bits if bits is None else min(bits, self.activation_bits)

    def of_mac(self, bits: int | None = None) -> float:
        """Energy in pJ of a multiply-accumulate; with an activation of `bits` bits that of `bits` shifted accumulates, if less."""
        arithmetic = self.mac if bits is None else min(self.mac, bits * self.accumulate)
        return arithmetic + self.access(self.weight_bits + self.width(bits))

    def of_accumulate(self) -> float:
        """Energy in pJ to add one weight to one potential."""
        return self.accumulate + self.access(self.weight_bits + 2 * self.potential_bits)

    def of_addition(self) -> float:
        """Energy in pJ to add one value to a sum in memory."""
        return self.accumulate + self.access(2 * self.potential_bits)

    def of_update(self) -> float:
        """Energy in pJ of the update of one neuron in one step."""
        return self.update + self.access(2 * self.potential_bits)

    def of_ann(self, target: Target, bits: int | None = None) -> float:
        """Energy in pJ for one image at `target` in the ANN, or in the ANN whose activations have `bits` bits."""
        full = min(target.constant + target.varying, target.macs)  # on what is no activation
        return (
            full * self.of_mac()
            + (target.macs - full) * self.of_mac(bits)
            + target.additions * (self.accumulate + self.access(self.width(bits)))
            + target.neurons * self.access(self.width(bits))
        )

    def of_snn(self, target: Target, accumulates: float, macs: int, steps: int) -> float:
        """pJ of one image at `target` in the SNN: `macs` on values that are not spikes, and neuron updates in `steps` timesteps."""
        return (
            macs * self.of_mac()
            + accumulates * self.of_accumulate()
            + target.neurons * steps * self.of_update()
            + target.sums * steps * self.of_addition()
            + target.functions * steps * 2 * self.of_mac()
        )


_HOROWITZ = "Horowitz, ISSCC 2014, doi 10.1109/ISSCC.2014.6757323, as in SpikingJelly 2.0"
_SRAM = "with 10 pJ for 64 bits of SRAM as in ANN2SNN_TMA (snn_energy_meter.py); no reuse"
TABLES = {
    "fp32_45nm": Costs(mac=4.6, accumulate=0.9, source=f"{_HOROWITZ} (SimpleEnergyCostConfig.fp32)"),
    "int8_45nm": Costs(
        mac=0.23, accumulate=0.03, weight_bits=8, activation_bits=8, source=f"{_HOROWITZ} (SimpleEnergyCostConfig.int8)"
    ),
    "fp32_45nm_sram": Costs(
        mac=4.6, accumulate=0.9, update=0.9, memory=10 / 64, source=f"fp32_45nm, {_SRAM}: an assumption"
    ),
    "int8_45nm_sram": Costs(
        mac=0.23, accumulate=0.03, update=0.03, memory=10 / 64, weight_bits=8, activation_bits=8,
        source=f"int8_45nm, {_SRAM}, 32-bit potentials: assumptions",
    ),
}  # fmt: skip
DEFAULT = tuple(TABLES)
TableNames = str | Costs | Sequence[str] | Mapping[str, Costs]


def tables_of(costs: TableNames) -> dict[str, Costs]:
    """Tables by name, from one name or several of `TABLES`, from `Costs`, or from such a mapping.

    ValueError for an unknown name, and without any table.

    >>> tables_of("fp32_45nm")["fp32_45nm"].mac
    4.6
    """
    if isinstance(costs, Costs):
        return {"costs": costs}
    if isinstance(costs, Mapping):
        tables = dict(costs)
    else:
        names = [costs] if isinstance(costs, str) else list(costs)
        if unknown := [name for name in names if name not in TABLES]:
            raise ValueError(
                f"costs: no table {unknown[0]!r}; there are {', '.join(TABLES)}, or pass Costs(mac=…, accumulate=…)"
            )
        tables = {name: TABLES[name] for name in names}
    if not tables:
        raise ValueError("costs: no table; choose tables of conf/costs, for example costs=[fp32_45nm,int8_45nm]")
    return tables
