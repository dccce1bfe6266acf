"""The integer network: snn.npz in an independent reader, compiled C99, and Verilog in Verilator."""

import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from readers.npz_reader import Network
from readers.subjects import TIMESTEPS, Subject
from snnconv.hardware.export import c, verilog
from snnconv.hardware.integer import file as integer_file
from snnconv.hardware.integer import golden
from snnconv.hardware.integer.network import integerize

HEAD = (
    "network",
    "file",
    "reader",
    "differing spikes and logits",
    "accuracy %",
    "KiB",
    "ms per image",
    "flash, RAM on a Cortex-M4 (bytes)",
)
HEAD_VERILOG = (
    "network",
    "simulator",
    "differing",
    "cycles per image",
    "ms at 100 MHz",
    "µJ counted / estimate",
    "LUT",
    "flip-flops",
    "block RAM",
    "multipliers",
)
CIRCUITS = ("mlp", "small_vgg", "resnet20")  # small enough to simulate and synthesize in minutes
TABLE = "int8_45nm"
MICROCONTROLLER = (
    "arm-none-eabi-gcc",
    "-mcpu=cortex-m4",
    "-mthumb",
    "-std=c99",
    "-Os",
    "-ffreestanding",
    "-c",
    "snn.c",
)


def rows(subject: Subject) -> list[list[str]]:
    """snn.npz and snn.c; all test images are compared between the reader, the C program and the integer network in torch."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        source, refused = _exported(subject, folder)
        network = Network(folder / "snn.npz")
        images = network.digitized(subject.x.numpy())
        begin = time.perf_counter()
        outcome = network.run(images, TIMESTEPS)
        seconds = time.perf_counter() - begin
        expected = golden.outcome(integerize(subject.snn, subject.data.calibration), subject.x, TIMESTEPS)
        lines = [[subject.name, "snn.npz", "NumPy", _differing(outcome, expected), _accuracy(subject, outcome[0]),
                  f"{(folder / 'snn.npz').stat().st_size / 1024:,.0f}", _per_image(seconds, subject), "–"]]  # fmt: skip
        if not source:
            return [*lines, [subject.name, "snn.c", refused, *"–" * 5]]
        program = integer_file.read(folder / "snn.npz")
        theirs = c.run_c(folder, program, images, TIMESTEPS, "cc")
        begin = time.perf_counter()
        subprocess.run(
            [folder / "snn", str(TIMESTEPS)], input=images.astype(np.int32).tobytes(), capture_output=True, check=True
        )
        seconds = time.perf_counter() - begin
        size = sum((folder / name).stat().st_size for name in ("snn.h", "snn_weights.h", "snn.c"))
        return [*lines, [subject.name, "snn.c", "cc -O2", _differing(theirs, expected), _accuracy(subject, theirs[0]),
                         f"{size / 1024:,.0f}", _per_image(seconds, subject), _memory(folder)]]  # fmt: skip


def _exported(subject: Subject, folder: Path) -> tuple[bool, str]:
    """Whether there is C source code, and the reason if not."""
    try:
        c.export(None, subject.snn, subject.data, folder, images=4, timesteps=TIMESTEPS)
    except ValueError as error:
        c.export(None, subject.snn, subject.data, folder, images=4, timesteps=TIMESTEPS, source=False)
        return False, str(error).partition(" (")[0]
    return True, ""


def _differing(outcome: golden.Outcome, expected: golden.Outcome) -> str:
    pairs = [(outcome[0], expected[0]), *((outcome[1][path], spikes) for path, spikes in expected[1].items())]
    return f"{sum(int((one != other).sum()) for one, other in pairs)} of {sum(one.size for one, _ in pairs):,}"


def _accuracy(subject: Subject, logits: np.ndarray) -> str:
    return subject.accuracy(torch.from_numpy(logits.sum(0)))


def _per_image(seconds: float, subject: Subject) -> str:
    return f"{1e3 * seconds / len(subject.x):.3g}"


def _memory(folder: Path) -> str:
    """Bytes of code and constants, and of variables."""
    if not shutil.which(MICROCONTROLLER[0]):
        return "–"
    subprocess.run(MICROCONTROLLER, cwd=folder, check=True)
    table = subprocess.run(
        ["arm-none-eabi-size", "snn.o"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    text, initialized, zeros = (int(size) for size in table.splitlines()[1].split()[:3])
    return f"{text + initialized:,}, {initialized + zeros:,}"


def rows_verilog(subject: Subject) -> list[list[str]]:
    """snn.v; [] for a network that is too large."""
    if subject.name not in CIRCUITS:
        return []
    with TemporaryDirectory() as folder:
        facts = verilog.export(None, subject.snn, subject.data, Path(folder), images=2, timesteps=TIMESTEPS, costs=TABLE,
                               cells=bool(shutil.which("yosys")))  # fmt: skip
    cells = sum((Counter(counts) for counts in facts.get("cells", {}).values()), Counter())
    energy = facts["energy_pJ"][TABLE]
    return [[subject.name, facts["simulator"], f"{facts['differing_from_the_golden_model']} of {facts['compared']}",
             " and ".join(f"{cycles:,}" for cycles in facts["cycles_per_image"]),
             " and ".join(f"{ms:.3g}" for ms in facts["ms_per_image_at_100_MHz"]),
             f"{energy['counted'] / 1e6:.3g} / {energy['estimate'] / 1e6:.3g}",
             *(f"{cells[kind]:,}" if cells else "–" for kind in ("lut", "flip_flop", "block_ram", "multiplier"))]]  # fmt: skip
