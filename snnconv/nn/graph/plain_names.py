"""Names that a stored network may use: classes of modules, functions, methods."""

import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from snnconv.nn.graph.aten_shapes import for_every_image

# Python modules whose network classes may be restored.
CLASSES = (
    "torch.nn.modules.", "snnconv.nn.activations.", "snnconv.nn.graph.", "snnconv.spiking.network.", "snnconv.spiking.neurons.",
    "snnconv.spiking.operators.", "spikingjelly.activation_based.neuron.", "spikingjelly.activation_based.surrogate.",
    "spikingjelly.activation_based.ann2snn.recipes.sta_transformer._STASpikeEncoder",
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


def function_name(function: Callable) -> str:
    """The name of a function in `FUNCTIONS`, or of an ATen operator; ValueError for any other."""
    if isinstance(function, torch._ops.OpOverload) and function.namespace == "aten":
        return str(function)
    for name, allowed in FUNCTIONS.items():
        if allowed is function:
            return name
    raise ValueError(f"{getattr(function, '__name__', function)}: a call of this function cannot be saved")


def named_function(name: str) -> Any:
    """The inverse of `function_name`."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    parts = name.split(".")
    if len(parts) == 3 and parts[0] == "aten" and "file" not in parts[1] and PATH.fullmatch(name):
        return getattr(getattr(torch.ops.aten, parts[1]), parts[2])
    raise ValueError(f"{name!r}: not a function that a saved network may call")
