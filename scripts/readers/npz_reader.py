"""A reader of snn.npz that imports NumPy and nothing of snnconv, written from the README in the file.

Sums are in float64, which is exact for integers below 2^53.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Steps = list[dict[str, Any]]
State = tuple[np.ndarray, np.ndarray]  # of neurons: potentials, and whether they have fired
FORMATS = tuple(f"snnconv integer network, {number}" for number in (1, 2))


class Network:
    """The network in a file."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as entries:
            arrays = {name: entries[name] for name in entries.files}
        about = json.loads(arrays["description"].tobytes())
        if about["format"] not in FORMATS:
            raise ValueError(
                f"{path}: its format is {about['format']!r}; this reader knows {' and '.join(map(repr, FORMATS))}"
            )
        self.steps: Steps = about["steps"]
        self.output, self.unit = about["output"], about["image_unit"]
        for number, step in enumerate(self.steps):
            step["arrays"] = {name: arrays[f"{number}.{name}"].astype(np.float64) for name in step["arrays"]}
        self.firing = [number for number, step in enumerate(self.steps) if step["kind"] == "fire"]

    def digitized(self, images: np.ndarray) -> np.ndarray:
        """Integers of float images."""
        most = self.steps[0]["settings"]["most"]
        return np.clip(np.rint(images / np.float32(self.unit)), -most, most).astype(np.float64)

    def run(self, images: np.ndarray, timesteps: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits [T, N, K], and spikes [T, N, …] of each layer by its name, for integer images [N, …]."""
        states: dict[int, State] = {}
        logits: list[np.ndarray] = []
        spikes: dict[str, list[np.ndarray]] = {self.steps[number]["name"]: [] for number in self.firing}
        for t in range(timesteps):
            values: list[np.ndarray] = []
            for number, step in enumerate(self.steps):
                inputs = [values[source] for source in step["inputs"]] or [images]
                if step["kind"] == "fire":
                    fired, states[number] = _fire(step, inputs[0], states.get(number), t)
                values.append(fired if step["kind"] == "fire" else _result(step, inputs))
            logits.append(values[self.output].astype(np.int64))
            for number in self.firing:
                spikes[self.steps[number]["name"]].append(values[number].astype(np.uint8))
        return np.stack(logits), {name: np.stack(trains) for name, trains in spikes.items()}


def _along(step: Any, values: np.ndarray) -> np.ndarray:
    """One number, one for each channel, or one for each element, shaped for broadcasting."""
    shape = tuple(step["shape"])
    return values.reshape(shape if values.size == np.prod(shape) else (-1, *[1] * (len(shape) - 1)))


def _fire(step: Any, x: np.ndarray, state: State | None, t: int) -> tuple[np.ndarray, State]:
    """Spikes of timestep `t`, and the state after them."""
    arrays, settings = step["arrays"], step["settings"]
    threshold = _along(step, arrays["threshold"])
    v, fired = state or (np.zeros_like(x) + _along(step, arrays["start"]), np.zeros(x.shape, bool))
    v = v + x
    if "bias" in arrays:
        v = v + _along(step, arrays["bias"][min(t, len(arrays["bias"]) - 1)])
    if settings["bits"]:
        v = np.clip(v, -(2.0 ** (settings["bits"] - 1)), 2.0 ** (settings["bits"] - 1) - 1)
    spikes = v >= threshold
    v, fired = v - threshold * spikes, fired | spikes
    if settings.get("no_debt"):
        v = np.where(fired, v, np.maximum(v, 0))
    return spikes.astype(np.float64), (v, fired)


def _result(step: Any, inputs: list[np.ndarray]) -> np.ndarray:
    """The result of any other step."""
    x, settings, shape = inputs[0], step["settings"], tuple(step["shape"])
    arrays = {name: values if name == "weights" else _along(step, values) for name, values in step["arrays"].items()}
    match step["kind"]:
        case "image" | "reshape":
            return x.reshape(len(x), *shape)
        case "linear":
            return arrays["multiplier"] * (x @ arrays["weights"].T) + arrays["bias"]
        case "conv":
            return arrays["multiplier"] * _convolution(x, arrays["weights"], shape, **settings) + arrays["bias"]
        case "sum_pool":
            (ph, pw), (sh, sw) = settings["padding"], settings["stride"]
            windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw))), settings["kernel"], (2, 3))
            return windows[:, :, ::sh, ::sw].sum((-2, -1))
        case "times":
            return arrays["factor"] * x
        case "requantize":
            return np.floor((arrays["multiplier"] * x + 2.0 ** (settings["shift"] - 1)) / 2.0 ** settings["shift"])
        case "add":
            return inputs[0] + inputs[1]
        case "move":
            return _moved(x, settings["start"], settings["step"], shape)
    raise ValueError(f"{step['name']}: unknown kind {step['kind']!r}")


def _convolution(
    x: np.ndarray, weights: np.ndarray, shape: Any, stride: Any, dilation: Any, padding: Any, groups: int
) -> np.ndarray:
    """One output pixel after another, from a padded copy of the input."""
    count, channels, rows, columns = x.shape
    (kernel_rows, kernel_columns), (outputs, height, width) = weights.shape[2:], shape
    padded = np.zeros((count, channels, height * stride[0] + kernel_rows * dilation[0] + rows,
                       width * stride[1] + kernel_columns * dilation[1] + columns))  # fmt: skip
    padded[:, :, padding[0] : padding[0] + rows, padding[1] : padding[1] + columns] = x
    sums = np.zeros((count, outputs, height, width))
    inner, outer = channels // groups, outputs // groups
    for row in range(height):
        for column in range(width):
            top, left = row * stride[0], column * stride[1]
            window = padded[:, :, top : top + kernel_rows * dilation[0] : dilation[0],
                            left : left + kernel_columns * dilation[1] : dilation[1]]  # fmt: skip
            for group in range(groups):
                part = window[:, group * inner : (group + 1) * inner].reshape(count, -1)
                kernel = weights[group * outer : (group + 1) * outer].reshape(outer, -1)
                sums[:, group * outer : (group + 1) * outer, row, column] = part @ kernel.T
    return sums


def _moved(x: np.ndarray, start: Any, step: Any, shape: Any) -> np.ndarray:
    """x[start + step · i], and 0 beside it."""
    for axis, (first, stride, size) in enumerate(zip(start, step, shape, strict=True), 1):
        result = np.zeros((*x.shape[:axis], size, *x.shape[axis + 1 :]))
        for place in range(size):
            source = first + stride * place
            if 0 <= source < x.shape[axis]:
                result[(slice(None),) * axis + (place,)] = np.take(x, source, axis)
        x = result
    return x
