"""Changing trained networks: modules in the place of others, one network as two.  Every function returns a copy."""

import copy
from collections.abc import Callable

from torch import nn

from snnconv.nn.graph.kinds import Kinds


def set_submodule(network: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` in the place `path` of `network`, under all names of the module that stands there."""
    parent, _, leaf = path.rpartition(".")
    owner = network.get_submodule(parent)
    before = owner._modules.get(leaf)
    if before is not None:
        for other in [*network.modules()]:
            for name in [name for name, child in other._modules.items() if child is before]:
                setattr(other, name, module)
    setattr(owner, leaf, module)


def replace_modules(network: nn.Module, kind: Kinds, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy of `network` in which every `kind` is replaced by `make(module)`."""
    network = copy.deepcopy(network)
    for path in [path for path, module in network.named_modules() if isinstance(module, kind)]:
        set_submodule(network, path, make(network.get_submodule(path)))
    return network
