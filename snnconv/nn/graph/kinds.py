"""Kinds of operations: what carries spikes as it carries activations, what an activation is."""

import operator

import torch
from torch import fx, nn
from torch.nn import functional as F

# What acts on every timestep alone and is linear (or affine), so that it carries spikes as it carries activations.
LINEAR_MODULES = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ZeroPad2d, nn.Upsample,
)  # fmt: skip


LINEAR_FUNCTIONS = (
    operator.add, operator.iadd, operator.sub, operator.neg, operator.getitem, getattr, torch.add, torch.sub, torch.cat,
    torch.flatten, torch.mean, torch.reshape, F.avg_pool2d, F.adaptive_avg_pool2d, F.pad, F.dropout, F.interpolate,
)  # fmt: skip


LINEAR_METHODS = (
    "add",
    "add_",
    "sub",
    "flatten",
    "view",
    "reshape",
    "mean",
    "size",
    "permute",
    "transpose",
    "contiguous",
)


SHAPE_ONLY = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
)  # fmt: skip


SHAPE_ONLY_CALLS = (
    torch.flatten,
    torch.reshape,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    F.dropout,
    "flatten",
    "view",
    "reshape",
)


SCALING = (operator.mul, torch.mul, "mul")  # linear if the other factor is a constant


DIVISIONS = (operator.truediv, torch.div, "div")  # linear if the divisor is a constant


NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


RELU_CALLS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")


ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


PASSING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)  # pass on what they receive, in eval mode


RESHAPING = (torch.flatten, torch.reshape, "flatten", "view", "reshape")


def is_activation(module: nn.Module) -> bool:
    """Does `module` follow the activation protocol?  (Asks without reading `threshold`, which tracing would record.)"""
    return hasattr(module, "set_threshold") and hasattr(module, "levels")


Kinds = type | tuple[type, ...]


def is_linear(node: fx.Node, module: nn.Module | None) -> bool:
    """Does `node`, which runs `module` (None: calls a function), carry spikes as it carries activations?"""
    if node.op == "call_module":
        return isinstance(module, LINEAR_MODULES)
    if node.target in (*SCALING, *DIVISIONS):
        currents = [isinstance(a, fx.Node) and a.op != "get_attr" for a in (*node.args, *node.kwargs.values())]
        if node.target in SCALING:
            return sum(currents) <= 1
        return not any(currents[1:]) and node.kwargs.get("rounding_mode") is None
    return node.target in (LINEAR_METHODS if node.op == "call_method" else LINEAR_FUNCTIONS)
