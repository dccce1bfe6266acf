"""An integer program as Verilog: modules, a generated top module and testbench, and the contents of memories."""

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from snnconv.hardware.integer.golden import Outcome
from snnconv.hardware.integer.program import Program, Step
from snnconv.hardware.integer.ranges import Range, ranges, width

MODULES = {"conv": "snn_weigh", "linear": "snn_weigh", "sum_pool": "snn_sum_pool", "times": "snn_scale", "requantize": "snn_scale",
           "add": "snn_add", "move": "snn_move", "fire": "snn_fire"}  # fmt: skip
TEMPLATES = Path(__file__).parent / "templates"
MEMBRANE = 32  # bits of a potential that does not saturate


def design(program: Program, images: np.ndarray, outcome: Outcome) -> dict[str, bytes]:
    """Contents of all files by name: snn.v and its memories, and snn_test.v with the `outcome` of integer `images` [N, …]."""
    return _Design(program).files(images, outcome)


class _Design:
    """Widths, memories and parameters of the modules of a program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.bounds = ranges(program, 1)
        self.memories: dict[str, bytes] = {}
        self.sources = list(range(len(program.steps)))  # a reshape uses the memory of its input
        for number, step in enumerate(program.steps):
            if step.kind == "reshape":
                self.sources[number] = self.sources[step.inputs[0]]
        self.running = [number for number, step in enumerate(program.steps) if step.kind in MODULES]

    def files(self, images: np.ndarray, outcome: Outcome) -> dict[str, bytes]:
        """Contents of the files, by name."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True,
                                  lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip
        described = self._described()
        steps = described["steps"]
        modules = ["snn_ram", "snn_walk", *dict.fromkeys(step["module"] for step in steps)]
        test = self._test(images, outcome)
        top = environment.get_template("snn.v.j2").render(described)
        bench = environment.get_template("snn_test.v.j2").render(
            described, images=len(images), timesteps=len(outcome[0])
        )
        source = "\n".join([top, *[(TEMPLATES / f"{name}.v").read_text() for name in modules]])
        return {"snn.v": source.encode(), "snn_test.v": bench.encode(), **self.memories, **test}

    def _described(self) -> dict[str, Any]:
        steps = [self._step(order, number) for order, number in enumerate(self.running)]
        image = next(number for number, step in enumerate(self.program.steps) if step.kind == "image")
        readers: dict[int, list] = {number: [] for number in [image, *self.running]}
        for step in steps:
            for source in step["sources"]:
                readers[source].append(step)
        output = self.sources[self.program.output]
        return {
            "steps": steps, "counter": len(steps).bit_length(),
            "image": {**self._memory(image), "unit": self.program.image_unit, "most": self.program.image.settings["most"]},
            "output": self._memory(output),
            "buffers": [{"number": number, "readers": reading} for number, reading in readers.items()],
            "layers": [{**self._memory(number), "about": _quiet(path)} for path, number in self.program.neurons().items()],
        }  # fmt: skip

    def _memory(self, number: int) -> dict[str, Any]:
        size = self.program.steps[number].size
        return {"number": number, "size": size, "width": self._width(number), "address": address(size)}

    def _width(self, number: int) -> int:
        """Bits of the results of a step.  Intermediate sums may wrap around, as two's complement allows."""
        return max(2, self.bounds[number].bits)

    def _once(self, number: int) -> bool:
        """Whether a step depends only on the image."""
        step = self.program.steps[number]
        return step.kind != "fire" and all(self._once(source) for source in step.inputs)

    def _step(self, order: int, number: int) -> dict[str, Any]:
        step = self.program.steps[number]
        sources = [self.sources[source] for source in step.inputs]
        shape = self.program.steps[step.inputs[0]].shape
        parameters = {
            **getattr(self, f"_{MODULES[step.kind].removeprefix('snn_')}")(
                number, step, shape, self.bounds[sources[0]]
            ),
            "X_WIDTH": self._width(sources[0]),
        }
        return {
            **self._memory(number), "order": order, "module": MODULES[step.kind], "sources": sources,
            "x_address": address(prod(shape)), "once": self._once(number),
            "about": _quiet(f"{step.kind}: {step.name} {list(step.shape)}"),
            "parameters": ", ".join(f".{name}({_literal(value)})" for name, value in parameters.items()),
        }  # fmt: skip

    def _weigh(self, number: int, step: Step, shape: tuple[int, ...], x: Range) -> dict[str, Any]:
        groups, weights = step.settings.get("groups", 1), step.arrays["weights"].astype(np.int64)
        weights = weights.reshape(groups, len(weights) // groups, *weights.shape[1:], *[1] * (4 - weights.ndim))
        in_order = weights.transpose(0, 2, 3, 4, 1)  # group, input channel, kernel row and column, output channel
        return {
            **_volume("IN", shape), **_volume("OUT", step.shape), **_pair("KERNEL", weights.shape[3:]), "GROUPS": groups,
            **{name: value for key in ("stride", "dilation", "padding") if key in step.settings
               for name, value in _pair(key.upper(), step.settings[key]).items()},
            "BINARY": int(x.least >= 0 and x.most <= 1), "X_ADDRESS": address(prod(shape)),
            "Y_WIDTH": self._width(number), "Y_ADDRESS": address(step.size),
            **self._weights(number, in_order),
            **self._rom("multiplier", "M", number, _every(step, "multiplier")),
            **self._rom("bias", "B", number, _every(step, "bias")),
        }  # fmt: skip

    def _sum_pool(self, number: int, step: Step, shape: tuple[int, ...], x: Range) -> dict[str, Any]:
        named = {
            name: value
            for key in ("kernel", "stride", "padding")
            for name, value in _pair(key.upper(), step.settings[key]).items()
        }
        return {"CHANNELS": shape[0], **_pair("IN", shape[1:]), **_pair("OUT", step.shape[1:]), **named,
                "X_ADDRESS": address(prod(shape)), "Y_WIDTH": self._width(number), "Y_ADDRESS": address(step.size)}  # fmt: skip

    def _scale(self, number: int, step: Step, shape: tuple[int, ...], x: Range) -> dict[str, Any]:
        name = "factor" if step.kind == "times" else "multiplier"
        return {**_each(step), "Y_WIDTH": self._width(number), "SHIFT": step.settings.get("shift", 0),
                **self._rom(name, "F", number, _every(step, name), "factor")}  # fmt: skip

    def _add(self, number: int, step: Step, shape: tuple[int, ...], x: Range) -> dict[str, Any]:
        return {"SIZE": step.size, "Z_WIDTH": self._width(self.sources[step.inputs[1]]), "Y_WIDTH": self._width(number),
                "ADDRESS": address(step.size)}  # fmt: skip

    def _move(self, number: int, step: Step, shape: tuple[int, ...], x: Range) -> dict[str, Any]:
        axes = ("CHANNEL", "ROW", "COLUMN")
        named = {f"{key}_{axis}": value for key, values in (("FIRST", step.settings["start"]), ("STEP", step.settings["step"]))
                 for axis, value in zip(axes, values, strict=True)}  # fmt: skip
        return {**_volume("IN", shape), **_volume("OUT", step.shape), **named,
                "X_ADDRESS": address(prod(shape)), "Y_ADDRESS": address(step.size)}  # fmt: skip

    def _fire(self, number: int, step: Step, shape: tuple[int, ...], x: Range) -> dict[str, Any]:
        bits = step.settings["bits"]
        return {**_each(step), "V_WIDTH": bits or MEMBRANE, "SATURATE": int(bits > 0),
                **self._rom("threshold", "T", number, _every(step, "threshold")),
                "EVERY": int(step.arrays["start"].size > step.shape[0]),
                **self._rom("initial", "S", number, _starts(step)), **self._bias(number, step),
                "NO_DEBT": int(step.settings.get("no_debt", False))}  # fmt: skip

    def _bias(self, number: int, step: Step) -> dict[str, Any]:
        if "bias" not in step.arrays:
            return {}
        rows = np.broadcast_to(step.arrays["bias"], (len(step.arrays["bias"]), step.shape[0]))
        return {"ROWS": len(rows), "B_ADDRESS": address(rows.size), **self._rom("bias", "B", number, rows)}

    def _weights(self, number: int, weights: np.ndarray) -> dict[str, Any]:
        """Parameters of the weight memory; weights that are all ±1 or powers of two are stored as signs and exponents."""
        sizes, signs = abs(weights), (weights < 0).astype(np.int64)
        powers = set(np.unique(sizes).tolist()) <= {0, *(2**k for k in range(7))}
        if (sizes == 1).all():
            code, values, bits = 1, signs, 1
        elif powers and sizes.max() > 1:  # ternary weights already have two bits
            exponents = np.log2(sizes.clip(1)).astype(np.int64)
            code, values, bits = 2, 8 * signs + np.where(sizes > 0, exponents + 1, 0), 4
        else:
            return {"CODE": 0, **self._rom("weights", "W", number, weights)}
        self.memories[f"weights_{number}.hex"] = words(values, bits)
        return {"CODE": code, "W_WIDTH": bits, "WEIGHTS": f"weights_{number}.hex"}

    def _rom(
        self, name: str, letter: str, number: int, values: np.ndarray, parameter: str | None = None
    ) -> dict[str, Any]:
        bits = max(2, width(int(values.min()), int(values.max())))
        self.memories[f"{name}_{number}.hex"] = words(values, bits)
        return {f"{letter}_WIDTH": bits, (parameter or name).upper(): f"{name}_{number}.hex"}

    def _test(self, images: np.ndarray, outcome: Outcome) -> dict[str, bytes]:
        logits, spikes = outcome
        image, output = self._described()["image"]["width"], self._width(self.sources[self.program.output])
        contents = {"test_images.hex": words(images, image), "test_logits.hex": words(logits.swapaxes(0, 1), output)}
        for path, number in self.program.neurons().items():
            contents[f"test_spikes_{number}.hex"] = words(spikes[path].swapaxes(0, 1), 1)
        return contents


def words(values: np.ndarray, bits: int) -> bytes:
    """Two's complement in hexadecimal, one word per line; the last line needs a newline, or Verilator drops its word."""
    digits, mask = -(-bits // 4), (1 << bits) - 1
    return "".join(f"{value & mask:0{digits}x}\n" for value in values.ravel().tolist()).encode()


def address(size: int) -> int:
    """Bits of an address in a memory of `size` words."""
    return max(1, (size - 1).bit_length())


def _every(step: Step, name: str) -> np.ndarray:
    """An array of a step, expanded to one value for each channel."""
    return np.broadcast_to(step.arrays[name].reshape(-1), (step.shape[0],))


def _starts(step: Step) -> np.ndarray:
    """v(0), one for each channel, or one for each element if they differ."""
    start = step.arrays["start"]
    return start if start.size > step.shape[0] else _every(step, "start")


def _each(step: Step) -> dict[str, Any]:
    return {"CHANNELS": step.shape[0], "EACH": step.size // step.shape[0], "ADDRESS": address(step.size)}


def _volume(prefix: str, shape: tuple[int, ...]) -> dict[str, int]:
    return {f"{prefix}_{axis}": n for axis, n in zip(("CHANNELS", "ROWS", "COLUMNS"), (*shape, 1, 1), strict=False)}


def _pair(prefix: str, values: Any) -> dict[str, int]:
    return {f"{prefix}_ROWS": values[0], f"{prefix}_COLUMNS": values[1]}


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(int(value))


def _quiet(name: str) -> str:
    """`name`, escaped for a comment of one line."""
    return json.dumps(name)[1:-1]
