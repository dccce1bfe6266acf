"""Graphs of modules as plain values and tensors, and back: what a file needs to rebuild a network without its source code.

Nothing is unpickled and no name is imported that is not on the lists below, so a file from elsewhere cannot run code.  A module is
its class, its plain attributes, its tensors and its children; a call of a function is the function's name.
"""

import importlib
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.nn.graph.aten_shapes import for_every_image

# Modules of Python whose network classes may be rebuilt.
CLASSES = (
    "torch.nn.modules.", "snnconv.nn.activations.", "snnconv.nn.graph.", "snnconv.spiking.network.", "snnconv.spiking.neurons.",
    "snnconv.spiking.operators.", "spikingjelly.activation_based.neuron.", "spikingjelly.activation_based.surrogate.",
)  # fmt: skip
FUNCTIONS: dict[str, Any] = {
    "snnconv.for_every_image": for_every_image,
    "torch.Tensor.expand": torch.Tensor.expand,
    **{f"operator.{name}": getattr(operator, name) for name in ("add", "iadd", "sub", "isub", "mul", "truediv", "neg", "getitem")},
    **{
        f"torch.{name}": getattr(torch, name)
        for name in (
            "add", "sub", "mul", "div", "cat", "stack", "mean", "sum", "permute", "transpose", "unsqueeze", "squeeze", "select",
            "chunk", "split", "unbind", "narrow", "flip", "roll", "movedim", "matmul", "einsum", "flatten", "reshape", "maximum",
            "minimum", "bmm", "relu",
        )
    },
    **{
        f"torch.nn.functional.{name}": getattr(nn.functional, name)
        for name in (
            "pad", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "linear", "conv1d", "conv2d", "conv3d", "avg_pool1d",
            "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "interpolate",
            "relu", "dropout",
        )
    },
}  # fmt: skip
METHODS = ("add", "sub", "mul", "div", "flatten", "view", "reshape", "mean", "sum", "size", "permute", "transpose", "contiguous",
           "unsqueeze", "squeeze", "dim", "chunk", "split")  # fmt: skip
OF_EVERY_MODULE = {*vars(nn.Module())} - {"training"}  # hooks and tables of tensors and children
PATH = re.compile(r"\w+(\.\w+)*", re.ASCII)


def to_plain(network: fx.GraphModule) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`network` as plain values (for JSON) and its tensors by name; a shared tensor appears once.

    ValueError naming the module or call that has no plain form.
    """
    store = _Store()
    targets = [str(node.target) for node in network.graph.nodes if node.op in ("call_module", "get_attr")]
    modules = {path: network.get_submodule(path) for path in targets if _is_module(network, path)}
    constants = {path: store.tensor(_reach(network, path)) for path in targets if path not in modules}
    nodes = [
        {
            "op": node.op,
            "name": node.name,
            "target": _name(node),
            "args": store.value(node.args),
            "kwargs": store.value(node.kwargs),
        }
        for node in network.graph.nodes
    ]
    plain = {"nodes": nodes, "modules": {path: store.module(path, module) for path, module in modules.items()}}
    return {**plain, "constants": constants}, store.tensors


def from_plain(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """The network that `to_plain` described; ValueError for anything that it cannot have written."""
    try:
        return _Restore(tensors).network(plain)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"damaged description of a network ({type(error).__name__}: {error})") from error


def _is_module(network: nn.Module, path: str) -> bool:
    try:
        network.get_submodule(path)
    except AttributeError:
        return False
    return True


def _reach(network: nn.Module, path: str) -> Any:
    parent, _, leaf = path.rpartition(".")
    return getattr(network.get_submodule(parent), leaf)


def _name(node: fx.Node) -> str:
    """The target of `node`, as a name that `_Restore` knows."""
    if node.op != "call_function":
        return str(node.target)
    return function_name(node.target)  # type: ignore[arg-type]


def function_name(function: Callable) -> str:
    """The name of a function in `FUNCTIONS`, or of an ATen operator; ValueError for any other."""
    if isinstance(function, torch._ops.OpOverload) and function.namespace == "aten":
        return str(function)
    for name, known in FUNCTIONS.items():
        if known is function:
            return name
    raise ValueError(f"{getattr(function, '__name__', function)}: a call of this function cannot be saved")


def named_function(name: str) -> Any:
    """The inverse of `function_name`."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    parts = name.split(".")
    if len(parts) == 3 and parts[0] == "aten" and "file" not in parts[1] and PATH.fullmatch(name):
        return getattr(getattr(torch.ops.aten, parts[1]), parts[2])
    raise ValueError(f"{name!r}: no function that a saved network may call")


class _Store:
    """Collects tensors while values become plain."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[int, str] = {}

    def tensor(self, tensor: Tensor, name: str | None = None) -> dict[str, Any]:
        key = self.names.get(id(tensor))
        if key is None:
            key = self.names[id(tensor)] = name or f"constant{len(self.tensors)}"
            self.tensors[key] = tensor
        return {"tensor": key, "trained": isinstance(tensor, nn.Parameter)}

    def module(self, path: str, module: nn.Module) -> dict[str, Any]:
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        if not kind.startswith(CLASSES):
            raise ValueError(f"{path}: {kind} cannot be saved; only layers of torch.nn and neurons of snnconv can")
        own = {key: value for key, value in vars(module).items() if key not in OF_EVERY_MODULE}
        try:
            attributes = {key: self.value(value, f"{path}.{key}") for key, value in own.items()}
        except ValueError as error:
            raise ValueError(f"{path} ({type(module).__name__}): {error}") from error
        named: dict[str, Mapping[str, Tensor | None]] = {"parameters": module._parameters, "buffers": module._buffers}
        return {
            "class": kind,
            "attributes": attributes,
            **{
                group: {k: None if t is None else self.tensor(t, f"{path}.{k}") for k, t in entries.items()}
                for group, entries in named.items()
            },
            "transient": sorted(module._non_persistent_buffers_set),
            "children": {
                k: self.module(f"{path}.{k}", child) for k, child in module._modules.items() if child is not None
            },
        }

    def value(self, value: Any, name: str | None = None) -> Any:
        if isinstance(value, Tensor):
            return self.tensor(value, name)
        if isinstance(value, fx.Node):
            return {"node": value.name}
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, list):
            return [self.value(item, name and f"{name}.{i}") for i, item in enumerate(value)]
        if isinstance(value, tuple | torch.Size):
            return {"tuple": [self.value(item, name and f"{name}.{i}") for i, item in enumerate(value)]}
        if isinstance(value, Mapping) and all(type(key) is str for key in value):
            return {"mapping": {key: self.value(item, name and f"{name}.{key}") for key, item in value.items()}}
        if isinstance(value, slice):
            return {"slice": [self.value(part) for part in (value.start, value.stop, value.step)]}
        if isinstance(value, torch.dtype | torch.memory_format | torch.layout | torch.device):
            return {type(value).__name__: str(value).removeprefix("torch.")}
        if callable(value) and not isinstance(value, type):
            return {"function": function_name(value)}
        raise ValueError(f"a value of type {type(value).__name__} cannot be saved")


class _Restore:
    """Builds modules and nodes from plain values."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors: dict[tuple[str, bool], Tensor] = {}
        self.stored = tensors
        self.nodes: dict[str, fx.Node] = {}

    def network(self, plain: Mapping[str, Any]) -> fx.GraphModule:
        root = nn.Module()
        for path, described in plain["modules"].items():
            _place(root, path, self.module(described))
        for path, described in plain["constants"].items():
            parent, leaf = _parent(root, path)
            tensor = self.tensor(described)
            parent.register_parameter(leaf, tensor) if isinstance(tensor, nn.Parameter) else parent.register_buffer(
                leaf, tensor
            )
        graph = fx.Graph()
        for node in plain["nodes"]:
            self.nodes[node["name"]] = self.node(graph, node)
        return fx.GraphModule(root, graph).eval()

    def node(self, graph: fx.Graph, plain: Mapping[str, Any]) -> fx.Node:
        op, target = plain["op"], plain["target"]
        if op == "call_function":
            target = named_function(target)
        elif op == "call_method" and target not in METHODS:
            raise ValueError(f"{target!r}: no method that a saved network may call")
        elif op not in ("placeholder", "output", "call_module", "get_attr", "call_method") or not PATH.fullmatch(
            target
        ):
            raise ValueError(f"{op} {target!r}: no step of a saved network")
        args, kwargs = self.value(plain["args"]), self.value(plain["kwargs"])
        if not all(name.isidentifier() for name in kwargs):
            raise ValueError(f"{kwargs}: no arguments of a call")
        return graph.create_node(op, target, args, kwargs, name=plain["name"])

    def tensor(self, plain: Mapping[str, Any]) -> Tensor:
        key = plain["tensor"], plain["trained"]
        if key not in self.tensors:
            tensor = self.stored[key[0]]
            self.tensors[key] = (
                nn.Parameter(tensor, requires_grad=tensor.is_floating_point()) if plain["trained"] else tensor
            )
        return self.tensors[key]

    def module(self, plain: Mapping[str, Any]) -> nn.Module:
        kind = plain["class"]
        if not kind.startswith(CLASSES) or not PATH.fullmatch(kind):
            raise ValueError(f"{kind!r}: no layer that a saved network may hold")
        place, _, name = kind.rpartition(".")
        found = getattr(importlib.import_module(place), name)
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise ValueError(f"{kind!r}: no layer that a saved network may hold")
        module = found.__new__(found)
        nn.Module.__init__(module)
        for key, value in plain["attributes"].items():
            if key in OF_EVERY_MODULE or callable(getattr(found, key, None)):
                raise ValueError(f"{kind}.{key}: no file may replace this attribute")
            module.__dict__[key] = self.value(value)
        for key, value in plain["parameters"].items():
            module.register_parameter(key, None if value is None else self.tensor(value))  # type: ignore[arg-type]
        for key, value in plain["buffers"].items():
            module.register_buffer(
                key, None if value is None else self.tensor(value), persistent=key not in plain["transient"]
            )
        for key, child in plain["children"].items():
            module.add_module(key, self.module(child))
        return module

    def value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        if "tensor" in value:
            return self.tensor(value)
        ((kind, content),) = value.items()
        if kind == "node":
            return self.nodes[content]
        if kind in ("tuple", "slice"):
            items = [self.value(item) for item in content]
            return tuple(items) if kind == "tuple" else slice(*items)
        if kind == "mapping":
            return {key: self.value(item) for key, item in content.items()}
        if kind == "function":
            return named_function(content)
        if kind == "device":
            return torch.device(content)
        if kind in ("dtype", "memory_format", "layout") and isinstance(
            found := getattr(torch, content), getattr(torch, kind)
        ):
            return found
        raise ValueError(f"{kind!r}: no value of a saved network")


def _parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds `path`, made of empty ones where there is none, and the last name of `path`."""
    if not PATH.fullmatch(path):
        raise ValueError(f"{path!r}: no path in a network")
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    return root, leaf


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` at `path`; what lies there already becomes its children."""
    parent, leaf = _parent(root, path)
    before = parent._modules.get(leaf)
    for name, child in before.named_children() if before is not None else ():
        module.add_module(name, child)
    setattr(parent, leaf, module)
