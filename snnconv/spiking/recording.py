"""What the neurons of a converted network emit, seen while it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float64
from spikingjelly.activation_based import base
from torch import Tensor, nn

from snnconv.spiking.model import SpikingModel

ROOM = 64  # steps for which there is room at first


@contextmanager
def watched(model: SpikingModel, observe: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While open, `observe(path, spikes)` sees what the neurons of each layer emit: [t, N, …] for each call of t steps.

    Spikes are whole numbers.  A neuron without a `node` emits a spike wherever its output is not 0.
    """

    def hook_for(path: str) -> Callable[[nn.Module, tuple, Tensor], None]:
        def hook(module: Any, inputs: tuple, output: Tensor) -> None:
            whole = isinstance(module, base.MemoryModule)
            steps = output.unsqueeze(0) if whole and module.step_mode == "s" else output
            observe(path, steps if whole else steps.sign())

        return hook

    handles = [
        getattr(neuron, "node", neuron).register_forward_hook(hook_for(path))
        for path, neuron in model.neurons().items()
    ]
    model._watched = True
    try:
        yield
    finally:
        model._watched = False
        for handle in handles:
            handle.remove()


@contextmanager
def count_spikes(model: SpikingModel) -> Iterator[dict[str, Float64[Tensor, "steps 4"]]]:
    """When closed, what the neurons of each layer have emitted while it was open, a row for each step, by path.

    Columns: spikes (absolute values, over all samples of the batch), neurons, the least and the largest number of spikes that
    one neuron emitted in the step.  The rows of a layer lie in one tensor from the beginning: many small ones, kept between large
    ones that come and go, would let a process grow to several times what it holds.
    """
    counts: dict[str, Tensor] = {}
    kept: dict[str, tuple[Tensor, int]] = {}  # rows, and how many of them are in use

    def count(path: str, spikes: Tensor) -> None:
        flat = spikes.flatten(1)
        total = flat.abs().sum(1, dtype=torch.float64)
        new = torch.stack(
            [total, torch.full_like(total, flat.shape[1]), flat.amin(1).double(), flat.amax(1).double()], 1
        )
        rows, used = kept.get(path, (new[:0], 0))
        if used + len(new) > len(rows):
            rows = torch.cat([rows[:used], new.new_empty(max(ROOM, used, len(new)), 4)])
        rows[used : used + len(new)] = new
        kept[path] = rows, used + len(new)

    with watched(model, count):
        yield counts
    counts.update({path: rows[:used] for path, (rows, used) in kept.items()})
