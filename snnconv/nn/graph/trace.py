"""Symbolic tracing of a network to a `torch.fx` graph."""

import copy
from typing import Any

from torch import fx, nn

from snnconv.nn.graph.kinds import is_activation


class Operation(nn.Module):
    """Base class of modules that tracing records as one operation."""


class _Tracer(fx.Tracer):
    """Treats torch's own modules, activations and the given kinds as single operations."""

    def __init__(self, leaves: tuple[type, ...] = ()) -> None:  # default: for graph modules that are unpickled
        super().__init__()
        self.leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, (*self.leaves, Operation))
            or is_activation(m)
            or super().is_leaf_module(m, module_qualified_name)
        )

    def create_args_for_root(self, *args: Any, **settings: Any) -> tuple[Any, list[Any]]:
        """The arguments of the forward pass; an optional one, which nobody passes, has its default instead of a placeholder."""
        function, arguments = super().create_args_for_root(*args, **settings)
        for number, argument in enumerate(arguments):
            if isinstance(argument, fx.Proxy) and argument.node.args:
                (arguments[number],) = argument.node.args
                self.graph.erase_node(argument.node)
        return function, arguments


def trace(network: nn.Module, leaves: tuple[type, ...] = ()) -> fx.Graph:
    """Graph of the operations of `network` in order; a module of a class in `leaves` is one operation.

    ValueError if the forward pass depends on the values it computes.
    """
    tracer = _Tracer(leaves)
    if isinstance(network, fx.GraphModule) and network.meta.get("captured"):
        called = {str(node.target) for node in network.graph.nodes if node.op == "call_module"}
        if all(tracer.is_leaf_module(network.get_submodule(path), path) for path in called):
            return copy.deepcopy(network.graph)  # nodes have the paths of the modules that call functions
    try:
        return tracer.trace(network)
    except Exception as error:  # tracing runs the user's forward pass on proxies, which can raise any error
        raise ValueError(
            f"{type(network).__name__}: the forward pass cannot be traced ({error}); write it without branches on values, "
            "and use modules for activations"
        ) from error


def path_of(node: fx.Node) -> str:
    """The path of the module that runs `node`."""
    if node.op == "call_module":
        return str(node.target)
    paths = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return next((path for path in reversed(paths) if path), "the network itself")


def stack_of(node: fx.Node) -> list[tuple[str, tuple[str, Any]]]:
    """The modules around `node`, outermost first: call, (path, class)."""
    stack = node.meta.get("nn_module_stack") or {}
    return [
        (call, (path, kind)) for call, (path, kind) in stack.items() if not path.startswith("_empty_nn_module_stack")
    ]
