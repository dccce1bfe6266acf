"""Kinds of operations: linear ones, which spikes and activations pass through alike, and activations."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from snnconv.nn.graph.calls import operation

# Operations on each timestep separately that are linear or affine, so spikes pass through them like activations.
LINEAR_MODULES = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ZeroPad2d, nn.Upsample, nn.Unflatten,
    nn.ConvTranspose1d, nn.ConvTranspose3d, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.PixelShuffle, nn.PixelUnshuffle,
    nn.ChannelShuffle, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Unfold, nn.Fold,
    *(getattr(nn, f"{kind}Pad{n}d") for kind in ("Zero", "Reflection", "Replication", "Circular") for n in (1, 2, 3)),
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
SUMS = (*ADDITIONS, operator.sub, torch.sub, "sub")
PASSING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)  # return their input in eval mode
RESHAPING = (torch.flatten, torch.reshape, "flatten", "view", "reshape")


def is_activation(module: nn.Module) -> bool:
    """Whether `module` follows the activation protocol.  Does not read `threshold`, because tracing would record that."""
    return hasattr(module, "set_threshold") and hasattr(module, "levels")


def trained_threshold(site: Any) -> float | Tensor:
    """θ of the activation `site` as a constant: a float, or [C] if it has one per channel."""
    theta = site.threshold.detach().cpu()
    return theta.item() if theta.numel() == 1 else theta.double()


LINEAR_CALLS = {
    "add",
    "sub",
    "neg",
    "getitem",
    "cat",
    "concat",
    "stack",
    "mean",
    "sum",
    "permute",
    "transpose",
    "unsqueeze",
    "squeeze",
    "select",
    "slice",
    "chunk",
    "split",
    "split_with_sizes",
    "unbind",
    "narrow",
    "flip",
    "roll",
    "movedim",
    "pad",
    "constant_pad_nd",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "reshape",
    "flatten",
    "expand",
    "repeat",
    "tile",
    "index",
    "index_select",
    "interpolate",
    "for_every_image",
    "detach",
    "clone",
    "to",
    "cumsum",
    "im2col",
    "unfold",
    "tril",
    "triu",
    "diagonal",
    "repeat_interleave",
    "avg_pool2d",
    "adaptive_avg_pool2d",
}  # names of functions in captured graphs that are linear in the signal
PRODUCTS = {"matmul", "bmm", "einsum", "mm"}  # linear if one factor is a constant


Kinds = type | tuple[type, ...]


def is_linear(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether `node`, which runs `module` (None: calls a function), is linear or affine in the signal."""
    if node.op == "call_module":
        return isinstance(module, LINEAR_MODULES)
    if node.target in (*SCALING, *DIVISIONS):
        currents = [isinstance(a, fx.Node) and a.op != "get_attr" for a in (*node.args, *node.kwargs.values())]
        if node.target in SCALING:
            return sum(currents) <= 1
        return not any(currents[1:]) and node.kwargs.get("rounding_mode") is None
    if node.op == "call_method":
        return node.target in LINEAR_METHODS
    if operation(node) in PRODUCTS:
        return sum(factor.op != "get_attr" for factor in node.all_input_nodes) <= 1
    return node.target in LINEAR_FUNCTIONS or operation(node) in LINEAR_CALLS
