"""The integer spiking network for hardware: snn.npz, and C99, each compared with the golden model before it is kept.

snn.npz is read by NumPy alone (`integer.file`, which also replays it).  snn.c computes one timestep a call in int32 and shows the
spikes of every layer; snn.h is its interface, snn_weights.h its constants.  CMakeLists.txt makes a library and a test (snn_test.c).
"""

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from snnconv.hardware.export.c_source import write_c
from snnconv.hardware.export.example import example_of, write_all
from snnconv.hardware.integer import file as integer_file
from snnconv.hardware.integer import golden
from snnconv.hardware.integer.program import Program
from snnconv.nn.quantization import Bits
from snnconv.spiking.model import SpikingModel

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-O2", "-DSNN_MAIN")


def export(
    ann: Any, snn: SpikingModel, data: Any, folder: Path, *, images: int = 4, timesteps: int = 8, source: bool = True,
    bits: Bits = 8, per_channel: bool = True, image_bits: int = 8, membrane_bits: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the integer network of `snn` (`integer.integerize`) to `folder`; returns facts about the comparison.

    On the first `images` test images, over `timesteps` steps, every spike and logit of the network in torch, of snn.npz and, where
    there is a C compiler, of the compiled snn.c is compared with the golden model.  ValueError naming the layer, and no files,
    where one differs; where the network has no integer counterpart; where C source code cannot hold its weights
    (without `source` there is none, and snn.npz stands alone).
    """
    widths: dict[str, Any] = {"bits": bits, "image_bits": image_bits, "membrane_bits": membrane_bits}
    example = example_of(snn, data, images, timesteps, per_channel=per_channel, **widths)
    program = example.program
    contents = {"snn.npz": integer_file.packed(program, example.images, example.outcome)}
    if source:
        contents |= write_c(program, example.images, example.outcome)
    compiler = next(filter(shutil.which, COMPILERS), None) if source else None
    with TemporaryDirectory() as place:
        for name, content in contents.items():
            (Path(place) / name).write_bytes(content)
        integer_file.replay(Path(place) / "snn.npz")
        if compiler:
            example.require_equal("snn.c", run_c(Path(place), program, example.images, timesteps, compiler))
    write_all(folder, contents)
    return {
        "files": {name: len(content) for name, content in contents.items()},
        "compared": example.compared,
        "differing_from_the_golden_model": {"torch": 0, "snn.npz": 0, "snn.c": 0 if compiler else None},
        "compiler": compiler or (f"none of {', '.join(COMPILERS)} was found, so snn.c was not compiled and not compared"
                                 if source else "not needed, there is no source code"),
        **example.summary(),
    }  # fmt: skip


def run_c(
    folder: Path, program: Program, images: np.ndarray, timesteps: int, compiler: str, *flags: str
) -> golden.Outcome:
    """Logits and spikes of snn.c in `folder`, compiled there, for digitized `images`.  ValueError where that fails."""
    compiled = subprocess.run(
        [compiler, *FLAGS, *flags, "snn.c", "-o", "snn"], cwd=folder, capture_output=True, text=True
    )
    if compiled.returncode:
        raise ValueError(f"snn.c: {compiler} does not compile it: {compiled.stderr[:1000].strip()}")
    ran = subprocess.run(
        [str(folder / "snn"), str(timesteps)], input=images.astype(np.int32).tobytes(), capture_output=True
    )
    layers = {path: program.steps[number] for path, number in program.neurons().items()}
    sizes = [4 * program.steps[program.output].size, *[-(-step.size // 8) for step in layers.values()]]  # in bytes
    if ran.returncode or len(ran.stdout) != len(images) * timesteps * sum(sizes):
        raise ValueError(
            f"snn.c: ends with status {ran.returncode} and {len(ran.stdout)} bytes: {ran.stderr[-1000:].decode()}"
        )
    values = np.frombuffer(ran.stdout, np.uint8).reshape(len(images), timesteps, -1).swapaxes(0, 1)
    logits, *spikes = np.split(values, np.cumsum(sizes)[:-1], axis=2)
    return np.ascontiguousarray(logits).view(np.int32), {
        path: np.unpackbits(bits, axis=2, count=step.size, bitorder="little").reshape(*bits.shape[:2], *step.shape)
        for (path, step), bits in zip(layers.items(), spikes, strict=True)
    }
