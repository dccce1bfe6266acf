"""The integer spiking network for hardware: snn.npz, snn.h and snn.c, each compared with the golden model before it is kept.

snn.npz is read by NumPy alone (`integer.file`, which also replays it).  snn.h holds the constants, snn.c a reference in C99
that computes one timestep a call in int32 and shows the spikes of every layer.
"""

import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from snnconv.hardware.export.example import example_of, write_all
from snnconv.hardware.integer import file as integer_file
from snnconv.hardware.integer import golden
from snnconv.hardware.integer.program import Program, Step
from snnconv.spiking.model import SpikingModel

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-O2", "-DSNN_MAIN")
LARGEST = 4_000_000  # weights that compilers take as source code, at about 200 bytes of memory each
WIDTH = 124  # of a line of numbers


def export(
    ann: Any, snn: SpikingModel, data: Any, folder: Path, *, images: int = 4, timesteps: int = 8, source: bool = True,
    bits: int = 8, per_channel: bool = True, image_bits: int = 8, membrane_bits: int | None = None,
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
        contents |= {name: text.encode() for name, text in zip(("snn.h", "snn.c"), write_c(program), strict=True)}
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
        **example.network.summary(),
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
    sizes = [program.steps[program.output].size, *[step.size for step in layers.values()]]
    if ran.returncode or len(ran.stdout) != 4 * len(images) * timesteps * sum(sizes):
        raise ValueError(
            f"snn.c: ends with status {ran.returncode} and {len(ran.stdout)} bytes: {ran.stderr[-1000:].decode()}"
        )
    values = np.frombuffer(ran.stdout, np.int32).reshape(len(images), timesteps, -1).swapaxes(0, 1)
    logits, *spikes = np.split(values, np.cumsum(sizes)[:-1], axis=2)
    return logits, {path: trains.reshape(*trains.shape[:2], *step.shape)
                    for (path, step), trains in zip(layers.items(), spikes, strict=True)}  # fmt: skip


def write_c(program: Program) -> tuple[str, str]:
    """The text of snn.h and of snn.c.  ValueError where there are more weights than compilers take as source code."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    steps = program.steps
    weights = sum(step.arrays["weights"].size for step in steps if "weights" in step.arrays)
    if weights > LARGEST:
        raise ValueError(f"{weights} weights are too many for C source code (up to {LARGEST}); write snn.npz alone "
                         "(export.source=false)")  # fmt: skip
    names = ["image" if step.kind == "image" else f"x_{number}" for number, step in enumerate(steps)]
    for number, step in enumerate(steps):
        if step.kind == "reshape":
            names[number] = names[step.inputs[0]]
    shown = {
        "image": _volume(program.image.shape), "image_unit": repr(float(program.image_unit)),
        "image_most": program.image.settings["most"], "logits": steps[program.output].size, "output": names[program.output],
        "word": max((8 * step.arrays["weights"].itemsize for step in steps if "weights" in step.arrays), default=8),
        "bits": next((step.settings["bits"] for step in steps if step.kind == "fire"), 0),
        "used": {"window" if step.kind in ("conv", "linear") else step.kind for step in steps},
        "arrays": [array for number, step in enumerate(steps) for array in _constants(program, number)],
        "buffers": [buffer for number, step in enumerate(steps) for buffer in _buffers(number, step)],
        "calls": [_call(program, number, names) for number, step in enumerate(steps) if step.kind not in ("image", "reshape")],
        "layers": [{"number": number, "title": json.dumps(path), "channels": steps[number].shape[0],
                    "each": steps[number].size // steps[number].shape[0], "step": int(steps[number].arrays["threshold"].size > 1)}
                   for path, number in program.neurons().items()],
    }  # fmt: skip
    templates = PackageLoader("snnconv.hardware.export")
    environment = Environment(loader=templates, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                              keep_trailing_newline=True)  # fmt: skip
    header, source = (environment.get_template(f"{name}.j2").render(shown) for name in ("snn.h", "snn.c"))
    return header, source


def _volume(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[C, H, W], where features are channels of one row and column."""
    return (*shape, 1, 1)[:3]


def _constants(program: Program, number: int) -> list[dict[str, Any]]:
    """The arrays of a step; where it has a window or moves elements, also its shape."""
    step, constants = program.steps[number], []
    for name, values in step.arrays.items():
        kind = "snn_weight" if name == "weights" else "int32_t"
        about = f"{_quiet(step.name)}: {name} {list(values.shape)}"
        constants.append(
            {
                "type": kind,
                "name": f"{name}_{number}",
                "size": values.size,
                "about": about,
                "rows": _rows(values.ravel()),
            }
        )
    if step.kind in ("conv", "linear", "sum_pool"):
        rows = _rows(np.array(_window(program, step)))
        constants.append(
            {
                "type": "snn_window",
                "name": f"window_{number}",
                "size": 1,
                "about": _quiet(step.name),
                "rows": "    {" + rows.strip() + "}",
            }
        )
    if step.kind == "move":
        source = program.steps[step.inputs[0]].shape
        for name, numbers in (
            ("from", source),
            ("first", step.settings["start"]),
            ("by", step.settings["step"]),
            ("to", step.shape),
        ):
            constants.append(
                {
                    "type": "int",
                    "name": f"{name}_{number}",
                    "size": 3,
                    "about": _quiet(step.name),
                    "rows": _rows(np.array(numbers)),
                }
            )
    return constants


def _window(program: Program, step: Step) -> list[int]:
    """The members of an `snn_window`."""
    settings, source = step.settings, _volume(program.steps[step.inputs[0]].shape)
    kernel = settings.get("kernel") or (step.arrays["weights"].shape[2:] or (1, 1))
    one = [1, 1]
    return [*source, *_volume(step.shape), *kernel, *settings.get("stride", one), *settings.get("dilation", one),
            *settings.get("padding", [0, 0]), settings.get("groups", 1)]  # fmt: skip


def _buffers(number: int, step: Step) -> list[dict[str, Any]]:
    """The buffers that a step writes to."""
    about = f"{step.kind}: {_quiet(step.name)} {list(step.shape)}"
    buffers = [] if step.kind in ("image", "reshape") else [{"name": f"x_{number}", "size": step.size, "about": about}]
    return buffers + (
        [{"name": f"v_{number}", "size": step.size, "about": "its potentials"}] if step.kind == "fire" else []
    )


def _call(program: Program, number: int, names: list[str]) -> str:
    """The line of `snn_step` that carries a step out."""
    step = program.steps[number]
    x, y, channels = names[step.inputs[0]], names[number], step.shape[0]
    each, n = step.size // channels, number
    if step.kind in ("conv", "linear"):
        return f"weigh(window_{n}, {x}, weights_{n}, multiplier_{n}, bias_{n}, {y});"
    if step.kind == "sum_pool":
        return f"sum_pool(window_{n}, {x}, {y});"
    if step.kind == "move":
        return f"move(from_{n}, first_{n}, by_{n}, to_{n}, {x}, {y});"
    if step.kind == "times":
        return f"times({channels}, {each}, factor_{n}, {x}, {y});"
    if step.kind == "requantize":
        return f"requantize({channels}, {each}, multiplier_{n}, {step.settings['shift']}, {x}, {y});"
    if step.kind == "add":
        return f"add({step.size}, {x}, {names[step.inputs[1]]}, {y});"
    if step.kind == "fire":
        wide = int(step.arrays["threshold"].size > 1)
        return f"fire({channels}, {each}, {wide}, threshold_{n}, {x}, v_{n}, {y});"
    raise ValueError(f"{step.name}: a step of an unknown kind, {step.kind!r}")


def _rows(values: np.ndarray) -> str:
    """Numbers in lines."""
    lines, line = [], "   "
    for value in values.tolist():
        word = f" {value},"
        if len(line) + len(word) > WIDTH:
            lines.append(line)
            line = "   "
        line += word
    return "\n".join([*lines, line.rstrip(",")])


def _quiet(name: str) -> str:
    """`name` for a comment."""
    return json.dumps(name)[1:-1].replace("*/", "* /").replace("/*", "/ *")
