"""Recording of the spikes of a converted network while it runs."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float64
from spikingjelly.activation_based import base
from torch import Tensor

from snnconv.spiking.model import SpikingModel

ROOM = 64  # number of rows of the first buffer of a layer


@contextmanager
def recording(
    model: SpikingModel, observe: Callable[[str, Tensor], None] | None = None, *, stepwise: bool = False
) -> Iterator[None]:
    """Context in which `observe(path, spikes)` is called with the spikes of each layer, [t, N, …], for each call of t steps.

    Spikes are integers.  For a neuron without a `node`, every output that is not 0 is a spike.  Compiled code is not used in this
    context, so forward hooks of the caller run as well.  With `stepwise` every call has t = 1.
    """
    settings = model.simulation
    with ExitStack() as closing:
        for path, neuron in model.neurons().items():
            if observe is None:
                break
            node: Any = getattr(neuron, "node", neuron)
            closing.callback(node.register_forward_hook(functools.partial(_hand_over, observe, path)).remove)
        closing.callback(setattr, model, "simulation", settings)
        model.simulation = replace(settings, compile="none", schedule="step" if stepwise else settings.schedule)
        yield


def _hand_over(observe: Callable[[str, Tensor], None], path: str, module: Any, inputs: tuple, output: Tensor) -> None:
    """Forward hook: the spikes in the output of a node, or of a neuron without a node."""
    is_node = isinstance(module, base.MemoryModule)
    steps = output.unsqueeze(0) if is_node and module.step_mode == "s" else output
    observe(path, steps if is_node else steps.sign())


@contextmanager
def count_spikes(model: SpikingModel) -> Iterator[dict[str, Float64[Tensor, "steps 4"]]]:
    """Context that counts the spikes of each layer; the dictionary, by path, is filled when the context ends.

    Each value has one row per step and the columns: spikes (absolute values, over all samples of the batch), neurons, smallest and
    largest number of spikes of one neuron in the step.  The rows of a layer are stored in one tensor, because many small tensors
    between large temporary ones would fragment the memory of the process.
    """
    counts: dict[str, Tensor] = {}
    buffers: dict[str, tuple[Tensor, int]] = {}  # rows, and how many of them are in use

    def count(path: str, spikes: Tensor) -> None:
        flat = spikes.flatten(1)
        total = flat.abs().sum(1, dtype=torch.float64)
        columns = [total, torch.full_like(total, flat.shape[1]), flat.amin(1).double(), flat.amax(1).double()]
        new = torch.stack(columns, 1)
        rows, used = buffers.get(path, (new[:0], 0))
        if used + len(new) > len(rows):
            rows = torch.cat([rows[:used], new.new_empty(max(ROOM, used, len(new)), 4)])
        rows[used : used + len(new)] = new
        buffers[path] = rows, used + len(new)

    with recording(model, count):
        yield counts
    counts.update({path: rows[:used] for path, (rows, used) in buffers.items()})
