"""Number of accumulates of an integer network on given images, as event-driven hardware performs them."""

import numpy as np

from snnconv.hardware.integer.golden import result_of, results
from snnconv.hardware.integer.program import Program


def accumulates(program: Program, images: np.ndarray, timesteps: int) -> np.ndarray:
    """Accumulates per image [N] in all timesteps: one for each sum that an input other than 0 of a weight layer contributes to.

    Layers before the first neuron receive the same image in every timestep and are counted once.
    """
    counts = np.zeros(len(images), np.int64)
    one, zero = np.ones(1, np.int64), np.zeros(1, np.int64)
    changing = _changing(program)
    for t, values in enumerate(results(program, images, timesteps)):
        for step, changes in zip(program.steps, changing, strict=True):
            if step.kind in ("conv", "linear") and (changes or t == 0):
                arrays = {"weights": np.ones_like(step.arrays["weights"], np.int64), "multiplier": one, "bias": zero}
                events = (values[step.inputs[0]] != 0).astype(np.int64)
                counts += result_of(step, arrays, [events]).reshape(len(images), -1).sum(1)
    return counts


def _changing(program: Program) -> list[bool]:
    """For each step, whether its result changes over time."""
    changing: list[bool] = []
    for step in program.steps:
        changing.append(step.kind == "fire" or any(changing[source] for source in step.inputs))
    return changing
