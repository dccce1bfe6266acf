"""Export of the integer spiking network as snn.npz and C99; both are compared with the golden model before they are written.

Reading snn.npz needs only NumPy (`integer.file` reads and replays it).  snn.c computes one timestep per call in int32 and returns
the spikes of every layer; snn.h is its interface, snn_weights.h holds its constants.  CMakeLists.txt builds a library and a test
(snn_test.c).
"""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from snnconv.hardware.export.c_source import write_c
from snnconv.hardware.export.checking import require_settings
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
    layers: Mapping[str, Bits] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the integer network of `snn` (`integer.integerize`) to `folder`; returns facts about the comparison.

    On the first `images` test images, over `timesteps` steps, every spike and logit of the torch network, of snn.npz and (if there
    is a C compiler) of the compiled snn.c is compared with the golden model.  If `source` is false, only snn.npz is written.

    ValueError, without writing files: naming the layer, if a value differs; if the network has no integer counterpart; or if it has
    too many weights for C source code.
    """
    require_settings(timesteps=timesteps, source=source)
    widths: dict[str, Any] = {"bits": bits, "layers": layers, "image_bits": image_bits, "membrane_bits": membrane_bits}
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
                                 if source else "not needed without source code"),
        **example.summary(),
    }  # fmt: skip


def run_c(
    folder: Path, program: Program, images: np.ndarray, timesteps: int, compiler: str, *flags: str
) -> golden.Outcome:
    """Compile snn.c in `folder` and return its logits and spikes for digitized `images`; ValueError if that fails."""
    compiled = subprocess.run(
        [compiler, *FLAGS, *flags, "snn.c", "-o", "snn"], cwd=folder, capture_output=True, text=True
    )
    if compiled.returncode:
        raise ValueError(f"snn.c: {compiler} reports an error: {compiled.stderr[:1000].strip()}")
    ran = subprocess.run(
        [str(folder / "snn"), str(timesteps)], input=images.astype(np.int32).tobytes(), capture_output=True
    )
    layers = {path: program.steps[number] for path, number in program.neurons().items()}
    sizes = [4 * program.steps[program.output].size, *[-(-step.size // 8) for step in layers.values()]]  # in bytes
    if ran.returncode or len(ran.stdout) != len(images) * timesteps * sum(sizes):
        raise ValueError(
            f"snn.c: ended with status {ran.returncode} after {len(ran.stdout)} bytes: {ran.stderr[-1000:].decode()}"
        )
    values = np.frombuffer(ran.stdout, np.uint8).reshape(len(images), timesteps, -1).swapaxes(0, 1)
    logits, *spikes = np.split(values, np.cumsum(sizes)[:-1], axis=2)
    shape = (timesteps, len(images), *program.steps[program.output].shape)
    return np.ascontiguousarray(logits).view(np.int32).reshape(shape), {
        path: np.unpackbits(bits, axis=2, count=step.size, bitorder="little").reshape(*bits.shape[:2], *step.shape)
        for (path, step), bits in zip(layers.items(), spikes, strict=True)
    }
