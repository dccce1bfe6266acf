"""Export of the integer spiking network as Verilog-2005: snn.v with its memories, and a testbench that compares every spike.

snn.v contains one module for each operation, and a sequencer that runs one step after another.  Weight layers scatter events: an
input of 0 costs one cycle, any other input one cycle for each sum that it contributes to.  Potentials and sums are in block RAM.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from snnconv.analysis.costs import DEFAULT, TableNames, tables_of
from snnconv.hardware.export import verilog_tools
from snnconv.hardware.export.checking import require_settings
from snnconv.hardware.export.example import example_of, write_all
from snnconv.hardware.export.verilog_design import design
from snnconv.hardware.integer.events import energies, events
from snnconv.nn.quantization import Bits
from snnconv.spiking.model import SpikingModel


def export(
    ann: Any, snn: SpikingModel, data: Any, folder: Path, *, images: int = 2, timesteps: int = 4, cells: bool = False,
    clock_mhz: float = 100.0, costs: TableNames = DEFAULT, bits: Bits = 8, per_channel: bool = True, image_bits: int = 8,
    membrane_bits: int | None = None, layers: Mapping[str, Bits] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the integer network of `snn` as Verilog to `folder`; returns facts about its simulation.

    The testbench runs the first `images` test images over `timesteps` steps in Verilator, or in Icarus Verilog if Verilator is not
    installed.  The facts hold the cycles of each image, its time at `clock_mhz`, its operations, and their energy by the tables of
    `costs` beside the estimate for the float network (`events.energies`; no tables: no energy).  With `cells`, yosys counts the
    cells of each layer.  ValueError, without writing files, if a spike or logit differs from the golden model, or if the network
    has no integer counterpart.
    """
    require_settings(timesteps=timesteps, cells=cells, clock_mhz=clock_mhz)
    tables = tables_of(costs) if costs else {}
    widths: dict[str, Any] = {"bits": bits, "layers": layers, "image_bits": image_bits, "membrane_bits": membrane_bits}
    example = example_of(snn, data, images, timesteps, per_channel=per_channel, **widths)
    if cells and not shutil.which("yosys"):
        raise ValueError("export.cells=true: needs yosys, which is not installed; install it or use export.cells=false")
    contents = design(example.program, example.images, example.outcome)
    simulator = next(filter(shutil.which, verilog_tools.SIMULATORS), None)
    counts = events(example.program, example.images, timesteps)
    facts: dict[str, Any] = {}
    with TemporaryDirectory() as place:
        for name, content in contents.items():
            (Path(place) / name).write_bytes(content)
        if simulator:
            facts = _simulated(Path(place), simulator, clock_mhz)
        if cells:
            facts["cells"] = verilog_tools.cells(Path(place))
    write_all(folder, contents)
    missing = f"none of {', '.join(verilog_tools.SIMULATORS)} was found, so snn.v was not simulated and not compared"
    return {
        "files": {name: len(content) for name, content in contents.items()}, "compared": example.compared,
        "accumulates_per_image": (counts.accumulates + counts.macs).tolist(), "operations_per_image": counts.as_dict(),
        "energy_pJ": energies(counts, tables, snn, data.test, timesteps), "simulator": simulator or missing, **facts,
        **example.summary(),
    }  # fmt: skip


def _simulated(folder: Path, simulator: str, clock_mhz: float) -> dict[str, Any]:
    """Facts about the simulation; ValueError if it differs from the golden model."""
    report = verilog_tools.simulate(folder, simulator)
    if report.differing:
        raise ValueError(f"snn.v differs from the golden model: {report.differing} of {report.compared} spikes and logits differ "
                         f"in {simulator}; nothing was written")  # fmt: skip
    milliseconds = [round(cycles / clock_mhz / 1e3, 4) for cycles in report.cycles]
    return {
        "differing_from_the_golden_model": 0,
        "cycles_per_image": report.cycles,
        f"ms_per_image_at_{clock_mhz:g}_MHz": milliseconds,
    }
