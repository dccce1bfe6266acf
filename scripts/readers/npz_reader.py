"""A reader of snn.npz that imports NumPy and nothing of snnconv, written from the README in the file.

Sums are in float64, which is exact for integers below 2^53.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Steps = list[dict[str, Any]]


class Network:
    """The network in a file."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as entries:
            arrays = {name: entries[name] for name in entries.files}
        about = json.loads(arrays["description"].tobytes())
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
        potentials: dict[int, np.ndarray] = {}
        logits: list[np.ndarray] = []
        spikes: dict[str, list[np.ndarray]] = {self.steps[number]["name"]: [] for number in self.firing}
        for _ in range(timesteps):
            values: list[np.ndarray] = []
            for number, step in enumerate(self.steps):
                inputs = [values[source] for source in step["inputs"]] or [images]
                values.append(self._result(number, step, inputs, potentials))
            logits.append(values[self.output].astype(np.int64))
            for number in self.firing:
                spikes[self.steps[number]["name"]].append(values[number].astype(np.uint8))
        return np.stack(logits), {name: np.stack(trains) for name, trains in spikes.items()}

    def _result(
        self, number: int, step: Any, inputs: list[np.ndarray], potentials: dict[int, np.ndarray]
    ) -> np.ndarray:
        x, arrays, settings, shape = inputs[0], step["arrays"], step["settings"], tuple(step["shape"])

        def along(name: str) -> np.ndarray:  # one number, one for each channel, or one for each element
            values = arrays[name]
            return values.reshape(shape if values.size == np.prod(shape) else (-1, *[1] * (len(shape) - 1)))

        match step["kind"]:
            case "image" | "reshape":
                return x.reshape(len(x), *shape)
            case "linear":
                return along("multiplier") * (x @ arrays["weights"].T) + along("bias")
            case "conv":
                return along("multiplier") * _convolution(x, arrays["weights"], shape, **settings) + along("bias")
            case "sum_pool":
                (ph, pw), (sh, sw) = settings["padding"], settings["stride"]
                windows = sliding_window_view(
                    np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw))), settings["kernel"], (2, 3)
                )
                return windows[:, :, ::sh, ::sw].sum((-2, -1))
            case "times":
                return along("factor") * x
            case "requantize":
                return np.floor((along("multiplier") * x + 2.0 ** (settings["shift"] - 1)) / 2.0 ** settings["shift"])
            case "add":
                return inputs[0] + inputs[1]
            case "move":
                return _moved(x, settings["start"], settings["step"], shape)
            case "fire":
                v = potentials.get(number, along("start")) + x
                if settings["bits"]:
                    v = np.clip(v, -(2.0 ** (settings["bits"] - 1)), 2.0 ** (settings["bits"] - 1) - 1)
                spikes = v >= along("threshold")
                potentials[number] = v - along("threshold") * spikes
                return spikes.astype(np.float64)
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
