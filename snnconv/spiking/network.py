"""Networks of spiking neurons: activations replaced by neurons with a time axis."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.rewrite import set_submodule
from snnconv.spiking.operators.base import OperatorOverTime, Site


class OverTime(nn.Module):
    """Wraps a neuron and restores its time axis: [T·N, …] → neuron on [T, N, …] → [T·N, …].

    Outside of this module time is part of the batch axis, so weight layers need no change.
    """

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.neuron = neuron
        self.timesteps = 1

    def forward(self, current: Float[Tensor, "TN *shape"]) -> Float[Tensor, "TN *shape"]:
        """θ·spikes for T = `timesteps` consecutive steps."""
        return self.neuron(current.unflatten(0, (self.timesteps, -1))).flatten(0, 1)


def to_spiking(ann: nn.Module, kinds: type | tuple[type, ...], make: Callable[[str, Any], nn.Module]) -> nn.Module:
    """A copy of `ann` with folded batch norms, in which `make(path, activation)` replaces every activation of `kinds`.

    Every `Site` that `operators.placement.place_operators` inserted is replaced by its operator.
    """
    network = fold_batchnorm(ann)
    sites = {path: module for path, module in network.named_modules() if isinstance(module, kinds)}
    for path, site in sites.items():
        set_submodule(network, path, OverTime(make(path, site)))
    for path, site in [(path, site) for path, site in network.named_modules() if isinstance(site, Site)]:
        set_submodule(network, path, OperatorOverTime(site.operator))
    return network
