"""Restoration of a network from plain values and tensors, the inverse of `plain.to_plain`."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.nn.graph.plain_names import CLASSES, METHODS, OF_EVERY_MODULE, PATH, named_function


def from_plain(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """The network from the results of `to_plain`; ValueError for any other content."""
    try:
        return _Restore(tensors).network(plain)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"damaged description of a network ({type(error).__name__}: {error})") from error


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
            self.nodes[node["name"]].meta["batch_axis"] = int(node.get("batch_axis", 0))
        network = fx.GraphModule(root, graph).eval()
        network.meta["captured"] = bool(plain.get("captured"))
        return network

    def node(self, graph: fx.Graph, plain: Mapping[str, Any]) -> fx.Node:
        op, target = plain["op"], plain["target"]
        if op == "call_function":
            target = named_function(target)
        elif op == "call_method" and target not in METHODS:
            raise ValueError(f"{target!r}: not a method that a saved network may call")
        elif op not in ("placeholder", "output", "call_module", "get_attr", "call_method") or not PATH.fullmatch(
            target
        ):
            raise ValueError(f"{op} {target!r}: not an operation of a saved network")
        args, kwargs = self.value(plain["args"]), self.value(plain["kwargs"])
        if not all(name.isidentifier() for name in kwargs):
            raise ValueError(f"{kwargs}: not the arguments of a call")
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
            raise ValueError(f"{kind!r}: not a layer that a saved network may contain")
        place, _, name = kind.rpartition(".")
        layer = getattr(importlib.import_module(place), name)
        if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
            raise ValueError(f"{kind!r}: not a layer that a saved network may contain")
        module = layer.__new__(layer)
        nn.Module.__init__(module)
        for key, value in plain["attributes"].items():
            if key in OF_EVERY_MODULE or callable(getattr(layer, key, None)):
                raise ValueError(f"{kind}.{key}: this attribute cannot be set by a file")
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
            constant := getattr(torch, content), getattr(torch, kind)
        ):
            return constant
        raise ValueError(f"{kind!r}: not a value of a saved network")


def _parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The parent module of `path`, created if it does not exist, and the last name of `path`."""
    if not PATH.fullmatch(path):
        raise ValueError(f"{path!r}: not a path of a module")
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    return root, leaf


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Add `module` at `path`; the children of a module that is there already become its children."""
    parent, leaf = _parent(root, path)
    before = parent._modules.get(leaf)
    for name, child in before.named_children() if before is not None else ():
        module.add_module(name, child)
    setattr(parent, leaf, module)
