"""C99 source of an integer program: API, constants, code, and a CMake project with a test."""

import json
from typing import Any

import numpy as np

from snnconv.hardware.export.c_memory import places, sources
from snnconv.hardware.integer.golden import Outcome
from snnconv.hardware.integer.program import Program, Step

FILES = ("snn.h", "snn_weights.h", "snn.c", "snn_test.c", "CMakeLists.txt")
LARGEST = 4_000_000  # number of weights that compilers can process as source code, at about 200 bytes of memory each
WIDTH = 124  # of a line of numbers


def write_c(program: Program, images: np.ndarray, outcome: Outcome) -> dict[str, bytes]:
    """Contents of the files by name; the test runs the first of `images` [N, …] and compares it with `outcome`.

    ValueError if there are too many weights for source code.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    weights = sum(step.arrays["weights"].size for step in program.steps if "weights" in step.arrays)
    if weights > LARGEST:
        raise ValueError(f"{weights} weights are too many for C source code (at most {LARGEST}); write only snn.npz "
                         "(export.source=false)")  # fmt: skip
    shown = {**_described(program), "test": _test(program, images, outcome)}
    templates = PackageLoader("snnconv.hardware.export")
    environment = Environment(loader=templates, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                              keep_trailing_newline=True)  # fmt: skip
    return {name: environment.get_template(f"{name}.j2").render(shown).encode() for name in FILES}


def _described(program: Program) -> dict[str, Any]:
    """The values that the templates show."""
    steps, (offsets, memory) = program.steps, places(program)
    names = ["image" if steps[number].kind == "image" else f"memory + {offsets[number]}" for number in sources(program)]
    bits = next((step.settings["bits"] for step in steps if step.kind == "fire"), 0)
    biases = [step.arrays["bias"] for step in steps if step.kind == "fire" and "bias" in step.arrays]  # [T, C]
    return {
        "image": _volume(program.image.shape), "image_unit": repr(float(program.image_unit)),
        "image_most": program.image.settings["most"], "logits": steps[program.output].size, "output": names[program.output],
        "word": max((8 * step.arrays["weights"].itemsize for step in steps if "weights" in step.arrays), default=8),
        "biased": max(map(len, biases), default=0),
        "varied": program.varied,
        "bits": bits, "potential": 16 if 0 < bits <= 16 else 32, "memory": memory,
        "used": {"window" if step.kind == "conv" else step.kind for step in steps},
        "arrays": [array for number, step in enumerate(steps) for array in _constants(program, number)],
        "calls": [_call(program, number, names) for number, step in enumerate(steps) if step.kind not in ("image", "reshape")],
        "layers": [{"number": number, "title": json.dumps(path), "channels": steps[number].shape[0], "about": _quiet(path),
                    "each": steps[number].size // steps[number].shape[0], "start": _start(steps[number]),
                    "no_debt": steps[number].settings.get("no_debt", False)}
                   for path, number in program.neurons().items()],
    }  # fmt: skip


def _start(step: Step) -> str:
    """Arguments of `start`: number of values of v(0), neurons for each, and whether the values differ."""
    count = step.arrays["start"].size
    channels = step.shape[0] if count == 1 else count
    return f"{channels}, {step.size // channels}, {int(count > 1)}"


def _test(program: Program, images: np.ndarray, outcome: Outcome) -> dict[str, Any]:
    """The first image, its logits, and the number of spikes of each layer in each timestep."""
    logits, spikes = outcome
    counts = np.stack([spikes[path][:, 0].reshape(len(logits), -1).sum(1) for path in program.neurons()], 1)
    tables = {"logits": logits[:, 0].reshape(len(logits), -1), "spikes": counts}
    braced = {name: ["    {" + _rows(row).strip() + "}," for row in table] for name, table in tables.items()}
    return {"timesteps": len(logits), "image": _rows(images[0].ravel()), **braced}


def _volume(shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` as [C, H, W]; features are channels with one row and one column."""
    return (*shape, 1, 1)[:3]


def _constants(program: Program, number: int) -> list[dict[str, Any]]:
    """The arrays of a step, and its shape if it has a window or moves elements."""
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
    if step.kind in ("conv", "sum_pool"):
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


def _call(program: Program, number: int, names: list[str]) -> str:
    """The line of `snn_step` that computes a step."""
    step = program.steps[number]
    x, y, channels = names[step.inputs[0]], names[number], step.shape[0]
    each, n = step.size // channels, number
    if step.kind == "linear":
        inputs = program.steps[step.inputs[0]].size
        return f"linear({inputs}, {channels}, {x}, weights_{n}, multiplier_{n}, bias_{n}, {y});"
    if step.kind == "conv":
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
        bias = f"row(bias_{n}, {len(step.arrays['bias'])}, {channels})" if "bias" in step.arrays else "0"
        fired = f"fired_{n}" if step.settings.get("no_debt") else "0"
        further = f"{bias}, {fired}, " if program.varied else ""
        return f"fire({channels}, {each}, {wide}, threshold_{n}, {x}, v_{n}, bits_{n}, {further}{y});"
    raise ValueError(f"{step.name}: a step of an unknown kind, {step.kind!r}")


def _rows(values: np.ndarray) -> str:
    """Numbers as lines of source code."""
    lines, line = [], "   "
    for value in values.tolist():
        word = f" {value},"
        if len(line) + len(word) > WIDTH:
            lines.append(line)
            line = "   "
        line += word
    return "\n".join([*lines, line.rstrip(",")])


def _quiet(name: str) -> str:
    """`name`, escaped for a comment."""
    return json.dumps(name)[1:-1].replace("*/", "* /").replace("/*", "/ *")
