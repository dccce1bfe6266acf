"""Reshaping, slicing and zero padding as ONNX nodes."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx, nn
from torch.nn import functional as F

from snnconv.hardware.export.normal_values import calls, site
from snnconv.hardware.export.onnx_nodes import Nodes
from snnconv.nn.graph.kinds import RESHAPING


def moved(nodes: Nodes, node: fx.Node, module: Any, inputs: list[str], path: str) -> str | None:
    """The output of `node` if it reshapes, slices or pads; None for other operations."""
    if isinstance(module, nn.Flatten) or calls(node, RESHAPING):
        return _reshaped(nodes, node, inputs, path)
    if node.target is operator.getitem and isinstance(node.args[1], tuple):
        return _sliced(nodes, node.args[1], inputs, path)
    if node.op == "call_function" and node.target is F.pad:
        settings: Any = (*node.args[1:], *node.kwargs.values())
        widths, *rest = settings
        if any(setting not in ("constant", None, 0) for setting in rest):
            raise ValueError(f"{site(node, module)}: only padding with zeros is supported")
        pads = begins_and_ends(widths, len(node.meta["tensor_meta"].shape))
        return nodes.emit_moved("Pad", [*inputs, nodes.constant(f"{path}.pads", pads, np.int64)], path)
    return None


def _reshaped(nodes: Nodes, node: fx.Node, inputs: list[str], path: str) -> str | None:
    shape = node.meta["tensor_meta"].shape
    if shape[0] != 1:  # the batch of the example
        return None
    if len(shape) == 2:
        return nodes.emit_moved("Flatten", inputs, path, axis=1)
    shown = nodes.constant(f"{path}.shape", [0, *shape[1:]], np.int64)
    return nodes.emit_moved("Reshape", [*inputs, shown], path)


def _sliced(nodes: Nodes, parts: Any, inputs: list[str], path: str) -> str | None:
    if not all(isinstance(part, slice) and _known(part) for part in parts) or parts[0] != slice(None):
        return None
    axes = [axis for axis, part in enumerate(parts) if part != slice(None)]
    ends = [np.iinfo(np.int64).max if parts[axis].stop is None else parts[axis].stop for axis in axes]
    where = {"starts": [parts[axis].start or 0 for axis in axes], "ends": ends, "axes": axes,
             "steps": [parts[axis].step or 1 for axis in axes]}  # fmt: skip
    values = [nodes.constant(f"{path}.{name}", value, np.int64) for name, value in where.items()]
    return nodes.emit_moved("Slice", [*inputs, *values], path)


def begins_and_ends(widths: Sequence[int], axes: int | None = None) -> list[int]:
    """Padding in ONNX's order (all begins, then all ends) from torch's order (begin and end of each axis, the last axis first)."""
    zeros = [0] * ((axes or len(widths) // 2) - len(widths) // 2)
    return [*zeros, *widths[-2::-2], *zeros, *widths[::-2]]


def _known(part: slice) -> bool:
    """Whether a slice has integer ends and a positive step."""
    return all(value is None or isinstance(value, int) for value in (part.start, part.stop)) and (part.step or 1) > 0
