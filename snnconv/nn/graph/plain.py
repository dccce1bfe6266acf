"""Conversion of graph modules to plain values and tensors, from which `rebuild` restores a network without its source code.

Nothing is unpickled, and only names on the lists of `plain_names` are imported, so a file cannot run other code.  A module is
its class, its plain attributes, its tensors and its children; a call of a function is the function's name.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.nn.graph.plain_names import CLASSES, OF_EVERY_MODULE, function_name


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
            **({"batch_axis": axis} if (axis := node.meta.get("batch_axis")) else {}),
        }
        for node in network.graph.nodes
    ]
    plain: dict[str, Any] = {
        "nodes": nodes,
        "modules": {path: store.module(path, module) for path, module in modules.items()},
    }
    plain |= {"captured": True} if network.meta.get("captured") else {}
    return {**plain, "constants": constants}, store.tensors


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
    """Name of the target of `node`, for `rebuild`."""
    if node.op != "call_function":
        return str(node.target)
    return function_name(node.target)  # type: ignore[arg-type]


class _Store:
    """Converts values to plain values, and collects their tensors."""

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
            raise ValueError(
                f"{path}: {kind} cannot be saved; supported are only layers of torch.nn and neurons of snnconv"
            )
        stored = {key: value for key, value in vars(module).items() if key not in OF_EVERY_MODULE}
        try:
            attributes = {key: self.value(value, f"{path}.{key}") for key, value in stored.items()}
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
