"""Rules that translate the ATen calls of an exported network to nodes of the captured graph.

A rule takes the `Lifting` and the node and returns the node of the new graph.  Calls with weights, pooling, activations and
operators become modules; sums, products with constants and reshapings become functions of torch, so that later passes handle
the same few targets in every network; any other call stays an ATen call, and `kinds` decides whether it is linear.
"""

import torch
from torch import fx, nn

from snnconv.nn.graph.aten_arithmetic import attention, formula, matmul, reduction, rsub, two
from snnconv.nn.graph.aten_calls import Rule, nothing, plain, refuse, same
from snnconv.nn.graph.aten_layers import batch_norm, dropout, interpolate, layer, norm, one, pool, pool_with_indices
from snnconv.nn.graph.aten_shapes import RESHAPINGS, expand, factory, repeat, reshape, sliced, squeeze, transposed
from snnconv.nn.graph.batch_axis import shape
from snnconv.nn.graph.calls import operation
from snnconv.nn.graph.sites import Extremum, Product, Quotient

SAME = ("detach", "alias", "clone", "contiguous", "to", "lift_fresh_copy", "_to_copy", "type_as")  # return their input
BY_ROWS = (
    "linear", "dropout", "relu", "hardtanh", "clamp", "gelu", "silu", "sigmoid", "tanh", "hardswish", "leaky_relu", "layer_norm",
    "add", "sub", "mul", "div", "neg", "opaque", "detach", "clone", "contiguous",
)  # fmt: skip
FORMULAS = (
    "abs", "sign", "round", "floor", "ceil", "trunc", "pow", "square", "sqrt", "rsqrt", "exp", "log", "log1p", "expm1", "sin",
    "cos", "atan", "erf", "reciprocal", "clamp", "clip", "clamp_min", "clamp_max", "threshold", "relu6",
)  # fmt: skip
REDUCTIONS = ("linalg_vector_norm", "norm", "amax", "amin", "var", "std", "logsumexp", "prod")
CONV = ("stride", "padding", "dilation", "groups")
TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")
POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
RECURRENT = "a recurrent layer, which cannot be converted because of its state; use convolutions or attention"


def _rules() -> dict[str, Rule]:
    rules: dict[str, Rule] = {
        **dict.fromkeys(RESHAPINGS, reshape),
        **dict.fromkeys((*SAME, "opaque"), same),
        **dict.fromkeys(("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"), nothing),
        **dict.fromkeys(("expand", "expand_as"), expand), **dict.fromkeys(("repeat", "tile"), repeat),
        **dict.fromkeys(("zeros", "ones", "full"), expand),
        **dict.fromkeys(("new_zeros", "new_ones", "new_full"), factory),
        "squeeze": squeeze, "slice": sliced, **dict.fromkeys(("t", "numpy_T", "mT"), transposed),
        "rsub": rsub, "mul": two(Product), "div": two(Quotient),
        "maximum": two(lambda: Extremum(torch.maximum)), "minimum": two(lambda: Extremum(torch.minimum)),
        **dict.fromkeys(("matmul", "bmm", "mm", "einsum"), matmul), "scaled_dot_product_attention": attention,
        "linear": layer(nn.Linear), "conv1d": layer(nn.Conv1d, *CONV), "conv2d": layer(nn.Conv2d, *CONV),
        "conv3d": layer(nn.Conv3d, *CONV), "conv_transpose1d": layer(nn.ConvTranspose1d, *TRANSPOSED),
        "conv_transpose2d": layer(nn.ConvTranspose2d, *TRANSPOSED), "conv_transpose3d": layer(nn.ConvTranspose3d, *TRANSPOSED),
        "batch_norm": batch_norm, "instance_norm": batch_norm,
        "layer_norm": norm(lambda g: nn.LayerNorm(tuple(g["normalized_shape"]), g["eps"])),
        "rms_norm": norm(lambda g: nn.RMSNorm(tuple(g["normalized_shape"]), g["eps"])),
        "group_norm": norm(lambda g: nn.GroupNorm(g["num_groups"], int(shape(g["input"])[1]), g["eps"])),
        "dropout": dropout(lambda rank: nn.Dropout), "alpha_dropout": dropout(lambda rank: nn.AlphaDropout),
        "feature_dropout": dropout(lambda rank: {3: nn.Dropout1d, 4: nn.Dropout2d}.get(rank, nn.Dropout3d)),
        "feature_alpha_dropout": dropout(lambda rank: nn.FeatureAlphaDropout),
        "gelu": one(lambda g: nn.GELU(g["approximate"])), "silu": one(lambda g: nn.SiLU()), "mish": one(lambda g: nn.Mish()),
        "hardswish": one(lambda g: nn.Hardswish()), "hardsigmoid": one(lambda g: nn.Hardsigmoid()),
        "sigmoid": one(lambda g: nn.Sigmoid()), "tanh": one(lambda g: nn.Tanh()), "elu": one(lambda g: nn.ELU(g["alpha"])),
        "selu": one(lambda g: nn.SELU()), "celu": one(lambda g: nn.CELU(g["alpha"])),
        "softplus": one(lambda g: nn.Softplus(g["beta"], g["threshold"])), "log_sigmoid": one(lambda g: nn.LogSigmoid()),
        "hardtanh": one(lambda g: nn.Hardtanh(g["min_val"], g["max_val"])), "glu": one(lambda g: nn.GLU(g["dim"])),
        "leaky_relu": one(lambda g: nn.LeakyReLU(g["negative_slope"])),
        "rrelu": one(lambda g: nn.LeakyReLU((g["lower"] + g["upper"]) / 2)),
        "softmax": one(lambda g: nn.Softmax(g["dim"])), "_softmax": one(lambda g: nn.Softmax(g["dim"])),
        "log_softmax": one(lambda g: nn.LogSoftmax(g["dim"])), "_log_softmax": one(lambda g: nn.LogSoftmax(g["dim"])),
        "avg_pool1d": pool(nn.AvgPool1d, *AVERAGE), "avg_pool2d": pool(nn.AvgPool2d, *AVERAGE),
        "avg_pool3d": pool(nn.AvgPool3d, *AVERAGE), "adaptive_avg_pool1d": pool(nn.AdaptiveAvgPool1d, "output_size"),
        "adaptive_avg_pool2d": pool(nn.AdaptiveAvgPool2d, "output_size"),
        "adaptive_avg_pool3d": pool(nn.AdaptiveAvgPool3d, "output_size"),
        "max_pool1d": pool(nn.MaxPool1d, *POOL), "max_pool2d": pool(nn.MaxPool2d, *POOL),
        "max_pool3d": pool(nn.MaxPool3d, *POOL),
        "max_pool1d_with_indices": pool_with_indices(nn.MaxPool1d, *POOL),
        "max_pool2d_with_indices": pool_with_indices(nn.MaxPool2d, *POOL),
        "max_pool3d_with_indices": pool_with_indices(nn.MaxPool3d, *POOL),
        "adaptive_max_pool1d": pool_with_indices(nn.AdaptiveMaxPool1d, "output_size"),
        "adaptive_max_pool2d": pool_with_indices(nn.AdaptiveMaxPool2d, "output_size"),
        "adaptive_max_pool3d": pool_with_indices(nn.AdaptiveMaxPool3d, "output_size"),
        "upsample_nearest1d": interpolate("nearest"), "upsample_nearest2d": interpolate("nearest"),
        "upsample_nearest3d": interpolate("nearest"), "upsample_linear1d": interpolate("linear"),
        "upsample_bilinear2d": interpolate("bilinear"), "upsample_trilinear3d": interpolate("trilinear"),
        "upsample_bicubic2d": interpolate("bicubic"),
        **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell"), refuse(RECURRENT)),
        **dict.fromkeys(("copy", "index_put", "fill"), refuse("changes part of a tensor in place; use torch.cat instead")),
    }  # fmt: skip
    return rules | dict.fromkeys(FORMULAS, formula) | dict.fromkeys(REDUCTIONS, reduction)


RULES = _rules()


def rule(node: fx.Node) -> Rule:
    """The rule for the call of `node`; `plain` if there is none."""
    return RULES.get(operation(node), plain)
