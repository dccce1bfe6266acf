"""What the neurons of a converted network emit, seen while it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn

from snnconv.spiking import SpikingModel


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
def count_spikes(model: SpikingModel) -> Iterator[dict[str, list[Tensor]]]:
    """While open, what the neurons of each layer emit, by path: a tensor [t, 4], float64, for each call of t steps.

    Its columns: spikes (absolute values, over all samples of the batch), neurons, the least and the largest number of spikes
    that one neuron emitted in the step.
    """
    counts: dict[str, list[Tensor]] = {}

    def count(path: str, spikes: Tensor) -> None:
        flat = spikes.flatten(1)
        total = flat.abs().sum(1, dtype=torch.float64)
        row = total, torch.full_like(total, flat.shape[1]), flat.amin(1).double(), flat.amax(1).double()
        counts.setdefault(path, []).append(torch.stack(row, 1))

    with watched(model, count):
        yield counts
