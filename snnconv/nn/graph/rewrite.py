"""Replacement of modules in trained networks."""

import copy
from collections.abc import Callable

from torch import nn

from snnconv.nn.graph.kinds import Kinds


def set_submodule(network: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the module at `path` of `network` by `module`, in place, under all names of the old module."""
    parent, _, leaf = path.rpartition(".")
    owner = network.get_submodule(parent)
    before = owner._modules.get(leaf)
    if before is not None:
        for other in [*network.modules()]:
            for name in [name for name, child in other._modules.items() if child is before]:
                setattr(other, name, module)
    setattr(owner, leaf, module)


def replace_modules(network: nn.Module, kind: Kinds, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy of `network` in which every module of class `kind` is replaced by `make(module)`."""
    network = copy.deepcopy(network)
    for path in [path for path, module in network.named_modules() if isinstance(module, kind)]:
        set_submodule(network, path, make(network.get_submodule(path)))
    return network
