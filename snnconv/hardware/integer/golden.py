"""Golden model: simulation of an integer network in NumPy (not torch), with int64 sums that must fit into int32."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from snnconv.hardware.integer.network import IntegerNetwork, integerize, single_timesteps
from snnconv.hardware.integer.neuron import WidthError
from snnconv.hardware.integer.program import Program, Step, program_of
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.recording import recording
from snnconv.spiking.simulation import wanted_timesteps

INT32 = np.iinfo(np.int32)
State = tuple[np.ndarray, np.ndarray]  # of neurons: potentials, and 1 where they have fired
Outcome = tuple[np.ndarray, dict[str, np.ndarray]]  # logits [T, N, K], and spikes [T, N, …] of every layer, by path


def simulate(network: IntegerNetwork, images: np.ndarray, timesteps: int) -> Outcome:
    """Logits [T, N, K] and spikes [T, N, …] of every layer, by path, for float images [N, C, H, W] (which are digitized first).

    ValueError naming a layer whose sums exceed int32.
    """
    program = program_of(network, images.shape[1:])
    return run(program, program.digitize(images), timesteps)


def run(program: Program, images: np.ndarray, timesteps: int) -> Outcome:
    """Logits and spikes of a program, for integer images [N, C, H, W]."""
    logits, spikes = [], defaultdict(list)
    for values in results(program, images, timesteps):
        logits.append(values[program.output])
        for path, number in program.neurons().items():
            spikes[path].append(values[number])
    return np.stack(logits), {path: np.stack(steps) for path, steps in spikes.items()}


def results(program: Program, images: np.ndarray, timesteps: int) -> Iterator[list[np.ndarray]]:
    """The results of all steps of a program [N, …], timestep by timestep."""
    arrays = [{name: values.astype(np.int64) for name, values in step.arrays.items()} for step in program.steps]
    states: dict[int, State] = {}
    for t in range(timesteps):
        values: list[np.ndarray] = []
        for number, (step, arrays_of_step) in enumerate(zip(program.steps, arrays, strict=True)):
            inputs = [images] if step.kind == "image" else [values[source] for source in step.inputs]
            if step.kind == "fire":
                spiked, states[number] = _fire(step, arrays_of_step, inputs[0], states.get(number), t)
            values.append(spiked if step.kind == "fire" else result_of(step, arrays_of_step, inputs))
        yield values


def difference(actual: Outcome, expected: Outcome) -> str | None:
    """The first difference of two outcomes, layer by layer, as text; None if they are equal."""
    for path in [*expected[1], "(logits)"]:
        values, other = (outcome[1].get(path) if path in expected[1] else outcome[0] for outcome in (actual, expected))
        if values is None or other is None or values.shape != other.shape:
            return f"{path}: other neurons"
        if (values != other).any():
            step, image = np.argwhere(values != other)[0][:2]
            what = "spikes" if path in expected[1] else "logits"
            return (
                f"{path}: {int((values != other).sum())} {what} differ, first in timestep {step + 1} of image {image}"
            )
    return None


def verified(
    snn: SpikingModel,
    calibration: Iterable,
    test: Iterable,
    timesteps: int | Sequence[int],
    golden: int = 8,
    **widths: Any,
) -> tuple[IntegerNetwork, int]:
    """The integer network of `snn` (`integerize` with `widths`), and the number of images on which it equals the golden model.

    ValueError if a spike or logit differs on the first `golden` images of `test`, and for several `timesteps` if the
    network depends on T.
    """
    if type(golden) is not int or golden < 0:
        raise ValueError(f"integer.golden={golden!r}: must be an integer of at least 0; 0: no comparison")
    network = integerize(snn, calibration, timesteps=single_timesteps(snn, timesteps), **widths)
    different, compared = differing_spikes(network, test, timesteps, golden)
    if different:
        raise ValueError(f"{different} spikes or logits differ from the golden model on {compared} images")
    return network, compared


def differing_spikes(
    network: IntegerNetwork, batches: Iterable[tuple[Tensor, Any]], timesteps: int | Sequence[int], images: int
) -> tuple[int, int]:
    """Number of spikes and logits that differ between torch and the golden model, and number of compared images.

    Compared are the first `images` images (or fewer), at the largest of `timesteps`.
    """
    steps, different, count = max(wanted_timesteps(timesteps)), 0, 0
    for x, _ in batches:
        x = x[: images - count]
        if not len(x):
            break
        logits, trains = outcome(network, x, steps)
        golden_logits, golden = simulate(network, x.cpu().numpy(), steps)
        different += int((logits != golden_logits).sum())
        different += sum(int((trains[path] != spikes).sum()) for path, spikes in golden.items())
        count += len(x)
    return different, count


def outcome(network: IntegerNetwork, images: Tensor, timesteps: int) -> Outcome:
    """Logits and spikes of the network in torch, for float `images`."""
    trains: dict[str, list[np.ndarray]] = defaultdict(list)
    with recording(network.snn, lambda path, spikes: trains[path].append(spikes.cpu().numpy().copy())):
        logits = network.snn(images, timesteps).cpu().numpy()
    return logits, {path: np.concatenate(steps) for path, steps in trains.items()}


def result_of(step: Step, arrays: dict[str, np.ndarray], inputs: list[np.ndarray]) -> np.ndarray:
    """The result of a step for `inputs` [N, …]."""
    settings, x = step.settings, inputs[0]
    if step.kind in ("conv", "linear"):
        sums = _convolve(x, arrays["weights"], step) if step.kind == "conv" else x @ arrays["weights"].T
        return _held(step, _over_channels(arrays["multiplier"], sums) * sums + _over_channels(arrays["bias"], sums))
    if step.kind == "sum_pool":
        return _held(step, _sum_pool(x, **settings))
    if step.kind == "times":
        return _held(step, x * _over_channels(arrays["factor"], x))
    if step.kind == "requantize":
        shift = settings["shift"]
        return _held(step, x * _over_channels(arrays["multiplier"], x) + 2 ** (shift - 1)) >> shift
    if step.kind == "add":
        return _held(step, inputs[0] + inputs[1])
    if step.kind == "move":
        return _moved(x, step)
    if step.kind in ("reshape", "image"):
        return x.reshape(len(x), *step.shape)
    raise ValueError(f"{step.name}: a step of an unknown kind, {step.kind!r}")


def _fire(
    step: Step, arrays: dict[str, np.ndarray], current: np.ndarray, state: State | None, t: int
) -> tuple[np.ndarray, State]:
    """Spikes of timestep `t`, and the state after them; `state` is None in the first step."""
    theta, zeros = _over_channels(arrays["threshold"], current), np.zeros_like(current)
    v, fired = state or (zeros + start_of(step, arrays["start"]), zeros)
    v, bits = v + _held(step, current + bias_at(step, arrays, t)), step.settings["bits"]
    if bits:
        v = np.clip(v, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    spikes = (_held(step, v) >= theta).astype(np.int64)
    v = v - theta * spikes
    if step.settings.get("no_debt"):
        fired = fired | spikes
        v = np.where(fired, v, np.maximum(v, 0))
    return spikes, (v, fired)


def bias_at(step: Step, arrays: dict[str, np.ndarray], t: int) -> np.ndarray:
    """The bias of a layer of neurons in timestep `t`, shaped for broadcasting; 0 if it has none."""
    rows = arrays.get("bias", np.zeros((1, 1), np.int64))
    return rows[min(t, len(rows) - 1)].reshape(1, -1, *[1] * (len(step.shape) - 1))


def start_of(step: Step, start: np.ndarray) -> np.ndarray:
    """v(0) of a layer, shaped for broadcasting: one number, one for each channel, or one for each neuron."""
    shape = step.shape if start.size == step.size else (-1, *[1] * (len(step.shape) - 1))
    return start.reshape(shape)[None]


def _over_channels(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`values` [C] (or one number), reshaped for broadcasting along axis 1."""
    return values.reshape(-1, *[1] * (like.ndim - 2)) if values.size > 1 else values


def _held(step: Step, sums: np.ndarray) -> np.ndarray:
    if sums.size and (sums.min() < INT32.min or sums.max() > INT32.max):
        raise WidthError(f"{step.name}: sums from {sums.min()} to {sums.max()} exceed int32; use fewer weight bits")
    return sums


def _convolve(x: np.ndarray, weights: np.ndarray, step: Step) -> np.ndarray:
    """A convolution with zero padding; further zeros are added after the last row or column if needed."""
    (sh, sw), (dh, dw), (top, left) = step.settings["stride"], step.settings["dilation"], step.settings["padding"]
    groups = step.settings["groups"]
    x = x.reshape(*x.shape, *[1] * (4 - x.ndim))  # a signal is an image of one column
    (_, _, h, w), (kh, kw), (_, oh, ow) = x.shape, weights.shape[2:], (*step.shape, 1)[:3]
    reach_h, reach_w = (kh - 1) * dh + 1, (kw - 1) * dw + 1
    bottom, right = (oh - 1) * sh + reach_h - h - top, (ow - 1) * sw + reach_w - w - left
    padded = np.pad(x, ((0, 0), (0, 0), (top, max(bottom, 0)), (left, max(right, 0))))
    windows = sliding_window_view(padded, (reach_h, reach_w), axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw][:, :, :oh, :ow]
    parts = zip(np.split(windows, groups, axis=1), np.split(weights, groups), strict=True)
    sums = [np.einsum("ncyxij,dcij->ndyx", part, kernel, optimize=True) for part, kernel in parts]
    return np.concatenate(sums, axis=1).reshape(len(x), *step.shape)


def _sum_pool(x: np.ndarray, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> np.ndarray:
    (ph, pw), (sh, sw) = padding, stride
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    return sliding_window_view(padded, tuple(kernel), axis=(2, 3))[:, :, ::sh, ::sw].sum((-2, -1))


def _moved(x: np.ndarray, step: Step) -> np.ndarray:
    """x[start + step · i], and 0 for indices outside of x."""
    for axis, (start, stride, size) in enumerate(
        zip(step.settings["start"], step.settings["step"], step.shape, strict=True), 1
    ):
        places = start + stride * np.arange(size)
        inside = (places >= 0) & (places < x.shape[axis])
        taken = np.take(x, np.where(inside, places, 0), axis)
        x = taken * inside.reshape(-1, *[1] * (x.ndim - axis - 1))
    return x
