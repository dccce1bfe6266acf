"""Construction of the captured graph: modules and tensors at their paths, and calls that replace ATen calls."""

import itertools
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from snnconv.nn.graph import leaves
from snnconv.nn.graph.aten_calls import MIXES
from snnconv.nn.graph.batch_axis import batch_axis
from snnconv.nn.graph.calls import operation
from snnconv.nn.graph.sites import is_site
from snnconv.nn.graph.trace import stack_of

Signal = fx.Node  # node of the new graph that depends on the image


class Builder:
    """Builds the graph of `network` from `program`, its export in eval mode.  `network` is a copy that may be changed.

    `values` maps each node of the export to a tensor (a constant), `SIZE` (a number that depends on the batch size), or a node of
    the new graph (a signal, which depends on the image).
    """

    SIZE = object()

    def __init__(self, network: nn.Module, program: ExportedProgram) -> None:
        self.network, self.program = network, program
        self.root, self.graph = nn.Module(), fx.Graph()
        self.values: dict[fx.Node, Any] = {}
        tensors = (*network.named_parameters(), *network.named_buffers())
        self.names = {
            id(tensor): name for name, tensor in reversed(tensors)
        }  # names of the tensors of the network, by identity
        self.origins: dict[int, str] = {}  # of constants, by identity: path of the module that computes them
        self.paths: dict[int, str] = {}  # of modules and tensors of the new graph, by identity
        self.alive: list[Any] = []  # references that keep the identities in `paths` valid
        self.layers: dict[Any, nn.Module] = {}  # layers that replace calls of functions

    def where(self, node: fx.Node) -> str:
        """Description of `node` for messages."""
        return where(node)

    def path_of(self, node: fx.Node) -> str:
        """The path of the module that calls `node`, "" for the network itself."""
        return path_of_call(node)

    def is_signal(self, node: Any) -> bool:
        """Whether `node` of the export depends on the image."""
        return isinstance(node, fx.Node) and isinstance(self.values[node], Signal)

    def path_for(self, node: fx.Node, name: str) -> str:
        """Path of a new module for `node`: that of the calling module if it has no other content, else that path and `name`."""
        path = path_of_call(node)
        module = self.network.get_submodule(path)
        if path and not [*module.children()] and not [*module.parameters()]:
            return path
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):  # a layer has no submodules
            return f"{path}_{name}"
        return f"{path}.{name}" if path else name

    def has_children(self, path: str) -> bool:
        """Whether the module at `path` of the network has submodules."""
        return bool([*self.network.get_submodule(path).children()])

    def shared(self, key: Any, layer: nn.Module, tensors: dict[str, Tensor | None]) -> nn.Module:
        """`layer` with `tensors`, or the layer that was created before for the same `key`."""
        if key not in self.layers:
            self.layers[key] = self.fill(layer, tensors)
            self.alive += tensors.values()
        return self.layers[key]

    def fill(self, module: nn.Module, tensors: dict[str, Tensor | None]) -> nn.Module:
        """`module` with `tensors` as its parameters and buffers; a parameter of the network stays the same object."""
        for name, tensor in tensors.items():
            if name in module._buffers:
                module.register_buffer(name, tensor)
            elif tensor is None or isinstance(tensor, nn.Parameter):
                module.register_parameter(name, tensor)
            else:
                module.register_parameter(name, nn.Parameter(tensor.detach().clone(), requires_grad=False))
        if "num_batches_tracked" in module._buffers:
            module.register_buffer("num_batches_tracked", torch.tensor(0))
        return module

    def argument(self, value: Any) -> Any:
        """`value` as an argument in the new graph: tensors become attributes, and zero-dimensional tensors numbers."""
        if not isinstance(value, Tensor):
            return value
        name = self.names.get(id(value))
        if name is None and value.dim() == 0:
            return value.item()
        if id(value) not in self.paths:
            self.attach(name or self.free(f"{self.origins.get(id(value), '')}.constant".lstrip(".")), value)
        return self.graph.get_attr(self.paths[id(value)])

    def arguments(self, node: fx.Node) -> tuple[tuple, dict[str, Any]]:
        """The arguments of `node` in the new graph."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: self.argument(self.values[source]))
        if any(leaf is self.SIZE for leaf in pytree.tree_leaves((args, kwargs))):
            raise ValueError(f"{where(node)}: computes with the number of images, which differs between batches")
        return args, kwargs

    def function(self, node: fx.Node, target: Any, *args: Any, **kwargs: Any) -> Signal:
        """A call of the function `target` that replaces `node`."""
        call = self.graph.call_function(target, args, kwargs)
        call.meta["nn_module_stack"] = dict(stack_of(node))
        return call

    def module(self, module: nn.Module, path: str, node: fx.Node, *sources: fx.Node) -> Signal:
        """A call of `module` on the values of `sources`, nodes of the export, that replaces `node`.

        The module is added at `path`, or at a numbered path if that exists.  A layer that is called again keeps its path; a
        module that represents a single call (`is_site`) gets a path for each call, and its inputs have the batch as dimension 0.
        """
        axes = [batch_axis(source) or 0 for source in sources]
        module = leaves.simplest(module)
        if not is_site(module):
            if any(axes) and not leaves.takes_axis(module, axes[0], sources[0]):
                raise ValueError(
                    f"{where(node)}: expects the images in dimension 0, but they are in dimension {axes[0]}; move the batch there"
                )
            if id(module) not in self.paths:
                self.attach(self.free(path), module)
            return self._called(node, self.paths[id(module)], [self.values[source] for source in sources])
        if leaves.works_along(module, axes[0], sources[0]):
            raise ValueError(f"{where(node)}: {MIXES}")
        if any(axes):
            module = leaves.moved(module, axes, sources, node)
        site = self.free(path)
        self.attach(site, leaves.twin(module) if id(module) in self.paths else module)
        inputs = [
            self.function(node, torch.movedim, self.values[s], k, 0) if k else self.values[s]
            for s, k in zip(sources, axes, strict=True)
        ]
        call = self._called(node, site, inputs)
        call.meta["is_relu"] = isinstance(module, nn.ReLU)
        return self.function(node, torch.movedim, call, 0, batch_axis(node)) if batch_axis(node) else call

    def _called(self, node: fx.Node, path: str, inputs: list[Signal]) -> Signal:
        call = self.graph.call_module(path, tuple(inputs))
        call.meta["nn_module_stack"] = dict(stack_of(node))
        return call

    def attach(self, path: str, value: Any) -> None:
        """Add `value`, a module or tensor, to the new network at `path`."""
        parent, _, leaf = path.rpartition(".")
        owner = self.root
        for name in parent.split(".") if parent else ():
            if name not in owner._modules:
                owner.add_module(name, nn.Module())
            owner = owner.get_submodule(name)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            owner.register_buffer(leaf, value)
        else:
            setattr(owner, leaf, value)
        self.paths[id(value)] = path
        self.alive.append(value)

    def free(self, path: str) -> str:
        """The first of `path`, `path`_2, … that does not exist."""
        numbered = (path if n == 1 else f"{path}_{n}" for n in itertools.count(1))
        return next(p for p in numbered if not self._exists(p))

    def _exists(self, path: str) -> bool:
        owner: Any = self.root
        for name in path.split("."):
            if not hasattr(owner, name):
                return False
            owner = getattr(owner, name)
        return True


def path_of_call(node: fx.Node) -> str:
    """The path of the module that calls `node`, "" for the network itself."""
    stack = stack_of(node)
    return stack[-1][1][0] if stack else ""


def where(node: fx.Node) -> str:
    """Description of `node` for messages: the path of its module and the operation."""
    return f"{path_of_call(node) or 'the network itself'} (calls {operation(node)})"
