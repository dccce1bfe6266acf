"""Ranges of all numbers of an integer network for any image, by interval arithmetic; no run can exceed them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from snnconv.hardware.integer.golden import bias_at, result_of, start_of
from snnconv.hardware.integer.program import Program, Step

Interval = tuple[np.ndarray, np.ndarray]  # the least and the largest value of every element


@dataclass(frozen=True)
class Range:
    """The smallest and largest result of a step; for neurons also of the potentials (v + x and v)."""

    least: int
    most: int
    potentials: tuple[int, int] = (0, 0)

    @property
    def bits(self) -> int:
        """Width of a signed integer that holds every result."""
        return width(self.least, self.most)


def width(least: int, most: int) -> int:
    """Bits of a signed integer that holds both; 0 is between them."""
    return 1 + max(int(max(most, 0)).bit_length(), int(max(-least - 1, 0)).bit_length())


def ranges(program: Program, timesteps: int) -> list[Range]:
    """The range of every step of `program` over `timesteps` steps, for images of any content."""
    intervals: list[Interval] = []
    bounds: list[Range] = []
    for step in program.steps:
        inputs = [intervals[source] for source in step.inputs]
        intervals.append(interval := _interval(step, inputs))
        potentials = _potentials(step, inputs[0], timesteps) if step.kind == "fire" else (0, 0)
        bounds.append(Range(int(interval[0].min()), int(interval[1].max()), potentials))
    return bounds


def bits_bound(program: Program, timesteps: int) -> dict[str, dict[str, int]]:
    """Bits that no image exceeds in `timesteps` steps, including the sign, by path of the neurons.

    `membrane_bits_bound` are those of their potentials, and `current_bits_bound` those of the sums that they receive in one step.
    """
    bounds, neurons = ranges(program, timesteps), program.neurons()
    return {
        "membrane_bits_bound": {path: width(*bounds[number].potentials) for path, number in neurons.items()},
        "current_bits_bound": {path: bounds[program.steps[number].inputs[0]].bits for path, number in neurons.items()},
    }


def described(observed: Mapping[str, int], membranes: Mapping[str, int], currents: Mapping[str, int]) -> str:
    """Bits of membranes that were observed, and `bits_bound`, as text.

    >>> described({"a": 12, "b": 14}, {"a": 15, "b": 18}, {"a": 9, "b": 11})
    'membranes of 12 to 14 bits observed, 15 to 18 for any image (18: b); currents of up to 11 bits'
    """
    largest = max(membranes, key=lambda path: membranes[path])
    return (f"membranes of {min(observed.values())} to {max(observed.values())} bits observed, {min(membranes.values())} to "
            f"{membranes[largest]} for any image ({membranes[largest]}: {largest}); currents of up to "
            f"{max(currents.values())} bits")  # fmt: skip


def _interval(step: Step, inputs: list[Interval]) -> Interval:
    if step.kind in ("image", "fire"):
        least, most = (-step.settings["most"], step.settings["most"]) if step.kind == "image" else (0, 1)
        return np.full((1, *step.shape), least, np.int64), np.full((1, *step.shape), most, np.int64)
    arrays = {name: values.astype(np.int64) for name, values in step.arrays.items()}
    if step.kind in ("conv", "linear"):
        return _weighted(step, arrays, *inputs[0])
    ends = [result_of(step, arrays, [interval[end] for interval in inputs]) for end in (0, 1)]
    return np.minimum(*ends), np.maximum(*ends)  # a negative factor turns its interval around


def _weighted(step: Step, arrays: dict[str, np.ndarray], least: np.ndarray, most: np.ndarray) -> Interval:
    """Interval of a weight layer: positive weights use one end of the input interval, negative weights the other."""
    weights, multiplier = arrays["weights"], arrays["multiplier"]
    up = weights * multiplier.reshape(-1, *[1] * (weights.ndim - 1)) > 0
    rising, falling = (
        {**arrays, "weights": weights * up},
        {**arrays, "weights": weights * ~up, "bias": np.zeros(1, np.int64)},
    )
    lowest = result_of(step, rising, [least]) + result_of(step, falling, [most])
    return lowest, result_of(step, rising, [most]) + result_of(step, falling, [least])


def _potentials(step: Step, current: Interval, timesteps: int) -> tuple[int, int]:
    """The least and the largest v + x and v."""
    theta = step.arrays["threshold"].astype(np.int64).reshape(-1, *[1] * (len(step.shape) - 1))
    start = start_of(step, step.arrays["start"].astype(np.int64))
    limit = 2 ** (step.settings["bits"] or 63) // 2
    low = high = np.broadcast_to(start, current[0].shape)
    least, most = int(low.min()), int(high.max())
    arrays = {name: values.astype(np.int64) for name, values in step.arrays.items()}
    can_have_fired = np.zeros(current[0].shape, bool)
    for t in range(timesteps):
        bias = bias_at(step, arrays, t)
        low, high = (np.clip(end + x + bias, -limit, limit - 1) for end, x in zip((low, high), current, strict=True))
        least, most = min(least, int(low.min())), max(most, int(high.max()))
        spiking = np.maximum(low, theta) - theta, high - theta  # v after a spike, if there can be one
        silent = low, np.minimum(high, theta - 1)
        can_spike, can_rest = high >= theta, low < theta
        low = np.where(can_rest, np.where(can_spike, np.minimum(silent[0], spiking[0]), silent[0]), spiking[0])
        high = np.where(can_rest, np.where(can_spike, np.maximum(silent[1], spiking[1]), silent[1]), spiking[1])
        if step.settings.get("no_debt"):
            can_have_fired |= can_spike
            low, high = np.where(can_have_fired, low, np.maximum(low, 0)), np.maximum(high, 0)
        least = min(least, int(low.min()))
    return least, most
