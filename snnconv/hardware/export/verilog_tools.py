"""External programs that simulate and synthesize Verilog: Verilator, Icarus Verilog, yosys."""

import json
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

SIMULATORS = ("verilator", "iverilog")
KINDS = {"lut": "LUT|INV", "flip_flop": "FD", "block_ram": "RAMB", "lut_ram": "RAM(?!B)", "multiplier": "DSP"}
SOURCES = ("snn.v", "snn_test.v")


@dataclass(frozen=True)
class Simulated:
    """The report of the testbench."""

    differing: int
    compared: int
    cycles: list[int]  # of each image


def simulate(folder: Path, simulator: str) -> Simulated:
    """Run the testbench in `folder` with "verilator" or "iverilog"; ValueError if that fails."""
    with TemporaryDirectory() as place:
        program = Path(place) / "snn"
        if simulator == "verilator":
            _run(["verilator", "--cc", "--exe", "--main", "--timing", "-Wno-fatal", "-Wno-lint", "-O3", "--Mdir", place,
                  "-o", "snn", "--top-module", "snn_test", *SOURCES], folder)  # fmt: skip
            _run(["make", "-C", place, "-f", "Vsnn_test.mk", "OPT_FAST=-O1", "OPT_SLOW=-O0", "OPT_GLOBAL=-O0"], folder)
        else:
            _run(["iverilog", "-g2005", "-o", str(program), "-s", "snn_test", *SOURCES], folder)
        output = _run([str(program)], folder)
    summary = re.search(r"(\d+) of (\d+) spikes and logits differ", output)
    if summary is None:
        raise ValueError(f"snn_test.v: {simulator} ended without a result: {output[-500:]}")
    cycles = [int(n) for n in re.findall(r"image \d+: (\d+) cycles", output)]
    return Simulated(int(summary[1]), int(summary[2]), cycles)


def cells(folder: Path) -> dict[str, dict[str, int]]:
    """Look-up tables, flip-flops, block RAMs and multipliers of each step of snn.v in `folder`: yosys for Xilinx 7-series."""
    with TemporaryDirectory() as place:
        netlist = Path(place) / "snn.json"
        script = f"read_verilog -defer snn.v; synth_xilinx -top snn -noiopad -noclkbuf; write_json {netlist}"
        _run(["yosys", "-q", "-p", script], folder)
        modules = {name: module for name, module in json.loads(netlist.read_text())["modules"].items() if "snn" in name}
    top = modules["snn"]["cells"]
    counts = {name: _cells(modules, cell["type"]) for name, cell in top.items() if cell["type"] in modules}
    counts["sequencer"] = Counter(_kind(cell["type"]) for cell in top.values() if cell["type"] not in modules)
    return {name: {kind: count[kind] for kind in KINDS} for name, count in counts.items()}


def _cells(modules: dict, name: str) -> Counter:
    """Number of cells of a module and of its submodules, by kind."""
    total: Counter = Counter()
    for cell in modules[name]["cells"].values():
        total.update(_cells(modules, cell["type"]) if cell["type"] in modules else {_kind(cell["type"]): 1})
    return total


def _kind(cell: str) -> str:
    """The kind of a cell: one of KINDS, or the cell's own name."""
    return next((kind for kind, pattern in KINDS.items() if re.match(pattern, cell)), cell)


def _run(command: list[str], folder: Path) -> str:
    """Run a program and return its output; ValueError if it fails."""
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if ran.returncode:
        raise ValueError(f"{command[0]}: status {ran.returncode}: {(ran.stderr + ran.stdout)[:1500].strip()}")
    return ran.stdout
