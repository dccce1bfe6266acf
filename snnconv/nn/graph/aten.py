"""Rules that say what an ATen call of an exported network becomes in the captured graph.

A rule takes the `Lifting` and the node and returns the node of the new graph.  Calls with weights, pooling, activations and
operators become modules; sums, products with constants and reshapings become functions of torch, so that later passes meet the
same few targets in every network; any other call stays the ATen call that it is, for `kinds` to judge.
"""

import operator
import sys
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from snnconv.nn.graph.batch_axis import batch_axis, fixed, keeps_order, shape
from snnconv.nn.graph.calls import bound, operation
from snnconv.nn.graph.sites import Attention, Elementwise, Extremum, MatMul, Product, Quotient

Rule = Callable[[Any, fx.Node], Any]
SAME = ("detach", "alias", "clone", "contiguous", "to", "lift_fresh_copy", "_to_copy", "type_as")  # pass on their input
TWINS: dict[str, Any] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "neg": operator.neg,
    "cat": torch.cat, "concat": torch.cat, "stack": torch.stack, "mean": torch.mean, "sum": torch.sum,
    "permute": torch.permute, "transpose": torch.transpose, "swapaxes": torch.transpose, "unsqueeze": torch.unsqueeze,
    "select": torch.select, "chunk": torch.chunk, "split": torch.split, "split_with_sizes": torch.split, "unbind": torch.unbind,
    "narrow": torch.narrow, "flip": torch.flip, "roll": torch.roll, "movedim": torch.movedim, "matmul": torch.matmul,
    "einsum": torch.einsum, "pad": F.pad, "pixel_shuffle": F.pixel_shuffle, "channel_shuffle": F.channel_shuffle,
}  # fmt: skip
MOVES = {
    "permute",
    "transpose",
    "swapaxes",
    "unsqueeze",
    "movedim",
    "stack",
    "t",
    "numpy_T",
    "mT",
    "squeeze",
}  # `dim` names no sum
FACTORIES = (
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "zeros_like",
    "ones_like",
    "full_like",
)  # read a shape, no data
RESHAPINGS = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
BY_ROWS = (
    "linear", "dropout", "relu", "hardtanh", "clamp", "gelu", "silu", "sigmoid", "tanh", "hardswish", "leaky_relu", "layer_norm",
    "add", "sub", "mul", "div", "neg", "opaque", "detach", "clone", "contiguous",
)  # fmt: skip
MIXES = "mixes the images of a batch; the answer for an image may depend on that image alone"


def rule(node: fx.Node) -> Rule:
    """The rule for `node`."""
    return RULES.get(operation(node), _plain)


def _refuse(reason: str) -> Rule:
    def refuse(lifting: Any, node: fx.Node) -> Any:
        raise ValueError(f"{lifting.where(node)}: {reason}")

    return refuse


def _plain(lifting: Any, node: fx.Node) -> Any:
    """The same call, as a function of torch where there is one."""
    if operation(node) not in MOVES and hasattr(node.target, "_schema"):
        _require_apart(lifting, node)
    if node.target is operator.getitem and isinstance(parts := lifting.values[node.args[0]], tuple):
        return parts[node.args[1]]  # type: ignore[index]
    args, kwargs = lifting.arguments(node)
    name = operation(node)
    target = TWINS.get(name, node.target)
    if name in ("add", "sub") and kwargs.get("alpha", 1) != 1:
        target = getattr(torch, name)
    return lifting.function(node, target, *args, **kwargs)


def _require_apart(lifting: Any, node: fx.Node) -> None:
    """ValueError where `node` works along the dimension of the images."""
    arguments = bound(node)
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor) and lifting.is_signal(n)]
    if not tensors:
        return
    source, axis = tensors[0], batch_axis(tensors[0])
    rank = source.meta["val"].dim()
    for name in ("dim", "dims", "axis"):
        named = arguments.get(name)
        dims = named if isinstance(named, (list, tuple)) else [named]
        if any(isinstance(dim, int) and dim % rank == axis for dim in dims):
            raise ValueError(f"{lifting.where(node)}: {MIXES}")
    for indices in [arguments["indices"]] if operation(node) == "index" else []:
        if len(indices) > (axis or 0) and indices[axis or 0] is not None:
            raise ValueError(f"{lifting.where(node)}: {MIXES}")


def _same(lifting: Any, node: fx.Node) -> Any:
    source: Any = node.all_input_nodes[0]
    same = source.meta["val"].dtype == node.meta["val"].dtype
    return lifting.values[source] if same else _plain(lifting, node)


def _nothing(lifting: Any, node: fx.Node) -> None:
    return None


# shapes


def _reshape(lifting: Any, node: fx.Node) -> Any:
    source: Any = node.args[0]
    if not lifting.is_signal(source):
        return _expand(lifting, node)
    before, after, x = shape(source), shape(node), lifting.values[source]
    if tuple(map(str, before)) == tuple(map(str, after)):
        return x
    if source in lifting.rows or not keeps_order(source, node):
        return _reordered(lifting, node)
    if len(after) == 2 and batch_axis(source) == batch_axis(node) == 0 and str(before[0]) == str(after[0]):
        return lifting.function(node, torch.flatten, x, 1)
    return lifting.function(node, torch.reshape, x, tuple(fixed(after)))


def _reordered(lifting: Any, node: fx.Node) -> Any:
    """A reshaping of [P, N, …] to [P·N, …] or back: the graph holds the rows of an image together, [N·P, …]."""
    source: Any = node.args[0]
    before, after, x = shape(source), shape(node), lifting.values[source]
    old, new = batch_axis(source) or 0, batch_axis(node) or 0
    rows = lifting.rows.get(source)
    if rows is None and new == 0 and str(after[0]) == str(prod(before[: old + 1])):
        lifting.rows[node] = prod(before[:old])
        return lifting.function(
            node, torch.reshape, lifting.function(node, torch.movedim, x, old, 0), tuple(fixed(after))
        )
    if rows is not None and prod(after[:new]) == rows and str(after[new] * rows) == str(before[0]):
        apart = lifting.function(node, torch.reshape, x, (-1, *after[:new], *after[new + 1 :]))
        return lifting.function(node, torch.movedim, apart, 0, new)
    raise ValueError(
        f"{lifting.where(node)}: {MIXES}, and this reshaping joins them with other dimensions; put the batch in front"
    )


def _squeeze(lifting: Any, node: fx.Node) -> Any:
    source: Any = node.args[0]
    dims = bound(node).get("dim")
    rank = source.meta["val"].dim()
    among = range(rank) if dims is None else [d % rank for d in (dims if isinstance(dims, (list, tuple)) else [dims])]
    ones = tuple(d for d in among if isinstance(shape(source)[d], int) and shape(source)[d] == 1)
    x = lifting.values[source]
    return lifting.function(node, torch.squeeze, x, ones) if ones else x


def _slice(lifting: Any, node: fx.Node) -> Any:
    if tuple(map(str, shape(node.args[0]))) == tuple(map(str, shape(node))) and bound(node)["step"] == 1:  # type: ignore[arg-type]
        return lifting.values[node.args[0]]
    _require_apart(lifting, node)
    arguments = bound(node)
    part = slice(arguments["start"], None if arguments["end"] == sys.maxsize else arguments["end"], arguments["step"])
    before = arguments["dim"] % len(shape(node))
    index = (*[slice(None)] * before, part)
    return lifting.function(node, operator.getitem, lifting.values[node.args[0]], index)


def _transposed(lifting: Any, node: fx.Node) -> Any:
    source: Any = node.args[0]
    rank = source.meta["val"].dim()
    order = (*range(rank - 2), rank - 1, rank - 2) if operation(node) in ("mT", "t") else tuple(reversed(range(rank)))
    return lifting.function(node, torch.permute, lifting.values[source], order)


def _repeat(lifting: Any, node: fx.Node) -> Any:
    source: Any = node.args[0]
    if not lifting.is_signal(source):
        return _expand(lifting, node)
    repeats = list(bound(node).get("repeats") or bound(node)["dims"])
    front = len(repeats) - source.meta["val"].dim()
    if repeats[front + (batch_axis(source) or 0)] != 1:
        raise ValueError(f"{lifting.where(node)}: {MIXES}")
    return _plain(lifting, node)


def _expand(lifting: Any, node: fx.Node) -> Any:
    """A tensor with more elements: of each image, or a constant for every image."""
    source: Any = node.all_input_nodes[0] if node.all_input_nodes else None
    value = lifting.values.get(source)
    if lifting.is_signal(source):
        x = value
        if tuple(map(str, shape(source))) == tuple(map(str, shape(node))):
            return x
        return lifting.function(node, torch.Tensor.expand, x, *fixed(shape(node)))
    axis = batch_axis(node) or 0
    sizes = [size if isinstance(size, int) else 1 for size in shape(node)]
    if isinstance(value, Tensor) and operation(node) == "expand":
        one = lifting.argument(value)  # itself, so that it stays a parameter
    elif isinstance(value, Tensor):
        one = lifting.argument(value.expand(sizes) if value.numel() == 1 else value.reshape(sizes))
    else:
        one = lifting.argument(filled(lifting, node, sizes))
    like = next(
        (n for n in reversed(lifting.signals) if str(shape(n)[batch_axis(n) or 0]) == str(shape(node)[axis])), None
    )
    if like is None:
        raise ValueError(f"{lifting.where(node)}: computes with the number of images, which differs between batches")
    return lifting.function(
        node, for_every_image, one, lifting.values[like], axis, batch_axis(like), tuple(fixed(shape(node)))
    )


def for_every_image(constant: Tensor, like: Tensor, axis: int, axis_of_like: int, sizes: tuple[int, ...]) -> Tensor:
    """`constant` for every image of `like`, the images as dimension `axis` of the result, whose other `sizes` are given."""
    return constant.expand(*(like.shape[axis_of_like] if i == axis else size for i, size in enumerate(sizes)))


fx.wrap("for_every_image")


def filled(lifting: Any, node: fx.Node, sizes: list[int]) -> Tensor:
    """The result of a factory call for one image."""
    values = {
        "zeros": 0.0,
        "ones": 1.0,
        "new_zeros": 0.0,
        "new_ones": 1.0,
        "zeros_like": 0.0,
        "ones_like": 1.0,
        "new_empty": 0.0,
    }
    arguments, name = bound(node), operation(node)
    fill = values.get(name, arguments.get("fill_value"))
    if not isinstance(fill, (int, float)):
        raise ValueError(f"{lifting.where(node)}: computes with the number of images, which differs between batches")
    return torch.full(sizes, fill, dtype=node.meta["val"].dtype)


def _factory(lifting: Any, node: fx.Node) -> Any:
    """A constant in the shape of a signal."""
    axis = batch_axis(node) or 0
    sizes = [size if isinstance(size, int) else 1 for size in shape(node)]
    like: Any = node.all_input_nodes[0]
    one = lifting.argument(filled(lifting, node, sizes))
    return lifting.function(
        node, for_every_image, one, lifting.values[like], axis, batch_axis(like), tuple(fixed(shape(node)))
    )


# arithmetic


def _rsub(lifting: Any, node: fx.Node) -> Any:
    (x, other, *_), _ = lifting.arguments(node)
    return lifting.function(node, operator.sub, other, x)


def _two(make: Callable[[], nn.Module]) -> Rule:
    """Linear with a constant; an operator site of two signals."""

    def lift(lifting: Any, node: fx.Node) -> Any:
        signals = [a for a in node.args[:2] if isinstance(a, fx.Node) and lifting.is_signal(a)]
        if operation(node) == "div" and len(signals) == 1 and signals[0] is node.args[1]:
            return _formula(lifting, node)
        if len(signals) < 2 or node.kwargs.get("rounding_mode"):
            return _plain(lifting, node)
        return lifting.module(make(), _path(lifting, node), node, *signals)

    return lift


def _matmul(lifting: Any, node: fx.Node) -> Any:
    signals = [n for n in node.all_input_nodes if lifting.is_signal(n)]
    if len(signals) == 2:
        equation = node.args[0] if operation(node) == "einsum" else None
        product = MatMul() if equation is None else MatMul(_Einsum(str(equation)))
        return lifting.module(product, _path(lifting, node), node, *signals)
    weight = lifting.values.get(node.args[1])
    if operation(node) in ("matmul", "mm") and isinstance(weight, Tensor) and weight.dim() == 2:
        layer = nn.Linear(weight.shape[0], weight.shape[1], bias=False, device="meta")
        layer.weight = nn.Parameter(weight.detach().t().contiguous(), requires_grad=weight.requires_grad)
        return lifting.module(layer, _path(lifting, node), node, node.args[0])
    if operation(node) == "einsum":
        _require_images_kept(lifting, node)
    return _plain(lifting, node)


class _Einsum:
    """torch.einsum of one equation."""

    def __init__(self, equation: str) -> None:
        self.equation = equation

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum(self.equation, a, b)


def _require_images_kept(lifting: Any, node: fx.Node) -> None:
    if batch_axis(node) is None:
        raise ValueError(f"{lifting.where(node)}: {MIXES}")


def _attention(lifting: Any, node: fx.Node) -> Any:
    given = bound(node)
    mask = given["attn_mask"]
    if given["dropout_p"]:
        raise ValueError(f"{lifting.where(node)}: {ACTIVE_DROPOUT}")
    if mask is not None and lifting.is_signal(mask):
        raise ValueError(f"{lifting.where(node)}: an attention mask that depends on the image")
    settings = {
        name: given[name] for name in ("is_causal", "scale", "enable_gqa") if given.get(name) not in (None, False)
    }
    module = Attention(None if mask is None else lifting.values[mask], **settings)
    return lifting.module(module, _path(lifting, node), node, *(given[name] for name in ("query", "key", "value")))


# layers


def _layer(kind: type[nn.Module], *names: str) -> Rule:
    """A layer with weights; `names` are the arguments that follow weight and bias."""

    def lift(lifting: Any, node: fx.Node) -> Any:
        given = bound(node)
        source, weight = given["input"], given["weight"]
        if lifting.is_signal(weight):
            settings = {name: given[name] for name in names}
            product = MatMul(_Settled(getattr(F, operation(node)), settings))
            if given["bias"] is not None:
                raise ValueError(
                    f"{lifting.where(node)}: its weights depend on the image; expected weights that stay the same"
                )
            return lifting.module(product, _path(lifting, node), node, source, weight)
        if not lifting.is_signal(source):
            raise ValueError(f"{lifting.where(node)}: its input is a constant and its weights depend on the image")
        tensors: dict[str, Any] = {
            n: lifting.values[given[n]] if given[n] is not None else None for n in ("weight", "bias")
        }
        layer = _made(kind, tensors["weight"], {name: given[name] for name in names})
        key = (kind, id(tensors["weight"]), id(tensors["bias"]), str(sorted((n, str(given[n])) for n in names)))
        layer = lifting.shared(key, layer, tensors)
        return lifting.module(layer, _layer_path(lifting, node, tensors["weight"]), node, source)

    return lift


class _Settled:
    """A function of two tensors whose other arguments are settled."""

    def __init__(self, function: Callable[..., Tensor], settings: dict[str, Any]) -> None:
        self.function, self.settings = function, settings

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return self.function(a, b, **self.settings)


def _made(kind: Any, weight: Tensor, settings: dict[str, Any]) -> nn.Module:
    """A layer of `kind` for `weight`, its tensors still to be set."""
    if kind is nn.Linear:
        return nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    groups, spatial = settings["groups"], tuple(weight.shape[2:])
    settings = {name: tuple(v) if isinstance(v, (list, tuple)) else v for name, v in settings.items()}
    if "output_padding" in settings:
        return kind(weight.shape[0], weight.shape[1] * groups, spatial, device="meta", **settings)
    return kind(weight.shape[1] * groups, weight.shape[0], spatial, device="meta", **settings)


def _batch_norm(lifting: Any, node: fx.Node) -> Any:
    given = bound(node)
    if given.get("training") or given.get("use_input_stats") or given.get("running_mean") is None:
        if operation(node) == "instance_norm":
            return _instance_norm(lifting, node)
        raise ValueError(f"{lifting.where(node)}: normalizes by the batch it is given, which differs in every step; use "
                         "nn.BatchNorm2d with track_running_stats=True, and call it in eval mode")  # fmt: skip
    names = ("weight", "bias", "running_mean", "running_var")
    tensors: dict[str, Any] = {name: lifting.values[given[name]] if given[name] is not None else None for name in names}
    kind: Any = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape(node))]
    norm = kind(len(tensors["running_mean"]), eps=given["eps"], momentum=given["momentum"], device="meta")
    norm = lifting.shared((kind, *(id(t) for t in tensors.values()), given["eps"]), norm, tensors)
    return lifting.module(norm.eval(), _layer_path(lifting, node, tensors["running_mean"]), node, given["input"])


def _norm(make: Callable[[dict[str, Any]], nn.Module]) -> Rule:
    """Layer, group and root-mean-square norm: operators with weights."""

    def lift(lifting: Any, node: fx.Node) -> Any:
        given = bound(node)
        tensors = {
            n: lifting.values[given[n]] if given.get(n) is not None else None for n in ("weight", "bias") if n in given
        }
        norm = lifting.fill(make(given), tensors)
        return lifting.module(norm, _layer_path(lifting, node, tensors["weight"]), node, given["input"])

    return lift


def _instance_norm(lifting: Any, node: fx.Node) -> Any:
    given = bound(node)
    kind: Any = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}[len(shape(node))]
    tensors = {n: lifting.values[given[n]] if given[n] is not None else None for n in ("weight", "bias")}
    norm = lifting.fill(kind(int(shape(node)[1]), eps=given["eps"], affine=True), tensors)
    return lifting.module(norm, _layer_path(lifting, node, tensors["weight"]), node, given["input"])


# modules of one signal


def _one(make: Callable[[dict[str, Any]], nn.Module], argument: str = "self") -> Rule:
    """A module of one signal, made from the arguments by name."""

    def lift(lifting: Any, node: fx.Node) -> Any:
        given = bound(node)
        source = next(iter(given.values()))
        return lifting.module(make(given), _path(lifting, node), node, source)

    return lift


ACTIVE_DROPOUT = "dropout that stays on in evaluation; write F.dropout(x, p, training=self.training), or use nn.Dropout"


def _dropout(kind: Callable[[int], type[nn.Module]]) -> Rule:
    def lift(lifting: Any, node: fx.Node) -> Any:
        given = bound(node)
        if given["train"] and given["p"]:
            raise ValueError(f"{lifting.where(node)}: {ACTIVE_DROPOUT}")
        module = kind(len(shape(node)))(given["p"])  # type: ignore[call-arg]
        return lifting.module(module.eval(), _path(lifting, node), node, given["input"])

    return lift


def _pool(kind: type[nn.Module], *names: str) -> Rule:
    def make(given: dict[str, Any]) -> nn.Module:
        settings: dict[str, Any] = {
            name: given[name] for name in names if name in given and given[name] not in ([], None)
        }
        return kind(**{name: tuple(v) if isinstance(v, (list, tuple)) else v for name, v in settings.items()})

    return _one(make)


def _pool_with_indices(kind: type[nn.Module], *names: str) -> Rule:
    """A pooling that also tells places, which nobody may read."""
    pool = _pool(kind, *names)

    def lift(lifting: Any, node: fx.Node) -> Any:
        if any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users):
            raise ValueError(f"{lifting.where(node)}: the places of the largest elements, which are data, are read")
        return (pool(lifting, node),)

    return lift


def _formula(lifting: Any, node: fx.Node) -> Any:
    """An operator site for a formula of one signal."""
    signals = [n for n in node.all_input_nodes if lifting.is_signal(n)]
    if len(signals) != 1 or node.meta["val"].dtype == torch.bool:
        return _plain(lifting, node)
    graph = fx.Graph()
    x = graph.placeholder("x")
    holder = nn.Module()

    def inside(n: fx.Node) -> Any:
        if n is signals[0]:
            return x
        value = lifting.values[n]
        if value.dim() == 0:
            return value.item()
        holder.register_buffer(n.name, value.detach())
        return graph.get_attr(n.name)

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), inside)
    target: Any = getattr(torch, operation(node), node.target)
    graph.output(graph.call_function(target, args, kwargs))
    module = Elementwise(fx.GraphModule(holder, graph), operation(node))
    return lifting.module(module, _path(lifting, node), node, signals[0])


def _interpolate(mode: str) -> Rule:
    def lift(lifting: Any, node: fx.Node) -> Any:
        given = bound(node)
        size: Any = given.get("output_size")
        factors = given.get("scale_factors") or [
            given[n] for n in ("scales", "scales_h", "scales_w", "scales_d") if given.get(n)
        ]
        settings: dict[str, Any] = {"align_corners": True} if given.get("align_corners") else {}
        if size is not None and all(isinstance(s, int) for s in size):
            settings["size"] = tuple(size)
        else:
            settings["scale_factor"] = tuple(factors)
        source = next(iter(given.values()))
        return lifting.function(node, F.interpolate, lifting.values[source], mode=mode, **settings)

    return lift


def _path(lifting: Any, node: fx.Node) -> str:
    """The path for a call that is not its module's only purpose: the calling module's, and the name of the operation."""
    return lifting.path_for(node, operation(node))


def _layer_path(lifting: Any, node: fx.Node, weight: Tensor | None) -> str:
    """The path of the module that owns `weight`, or one beside."""
    name = lifting.names.get(id(weight), "") if weight is not None else ""
    owner, _, leaf = name.rpartition(".")
    if owner and leaf in ("weight", "running_mean") and not lifting.has_children(owner):
        return owner
    if leaf.endswith("_weight"):  # in_proj_weight of an attention
        return name.removesuffix("_weight")
    if (path := lifting.path_of(node)) and not lifting.has_children(path):
        return path
    return lifting.path_for(node, operation(node))


FORMULAS = (
    "abs", "sign", "round", "floor", "ceil", "trunc", "pow", "square", "sqrt", "rsqrt", "exp", "log", "log1p", "expm1", "sin",
    "cos", "atan", "erf", "reciprocal", "clamp", "clip", "clamp_min", "clamp_max", "threshold", "relu6",
)  # fmt: skip
CONV = ("stride", "padding", "dilation", "groups")
TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")
POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
RECURRENT = "a recurrent layer, whose state has no equivalent over timesteps; use convolutions or attention"


def _rules() -> dict[str, Rule]:
    rules: dict[str, Rule] = {
        **dict.fromkeys(RESHAPINGS, _reshape),
        **dict.fromkeys((*SAME, "opaque"), _same),
        **dict.fromkeys(("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"), _nothing),
        **dict.fromkeys(("expand", "expand_as"), _expand), **dict.fromkeys(("repeat", "tile"), _repeat),
        **dict.fromkeys(("zeros", "ones", "full"), _expand),
        **dict.fromkeys(("new_zeros", "new_ones", "new_full"), _factory),
        "squeeze": _squeeze, "slice": _slice, **dict.fromkeys(("t", "numpy_T", "mT"), _transposed),
        "rsub": _rsub, "mul": _two(Product), "div": _two(Quotient),
        "maximum": _two(lambda: Extremum(torch.maximum)), "minimum": _two(lambda: Extremum(torch.minimum)),
        **dict.fromkeys(("matmul", "bmm", "mm", "einsum"), _matmul), "scaled_dot_product_attention": _attention,
        "linear": _layer(nn.Linear), "conv1d": _layer(nn.Conv1d, *CONV), "conv2d": _layer(nn.Conv2d, *CONV),
        "conv3d": _layer(nn.Conv3d, *CONV), "conv_transpose1d": _layer(nn.ConvTranspose1d, *TRANSPOSED),
        "conv_transpose2d": _layer(nn.ConvTranspose2d, *TRANSPOSED), "conv_transpose3d": _layer(nn.ConvTranspose3d, *TRANSPOSED),
        "batch_norm": _batch_norm, "instance_norm": _batch_norm,
        "layer_norm": _norm(lambda g: nn.LayerNorm(tuple(g["normalized_shape"]), g["eps"])),
        "rms_norm": _norm(lambda g: nn.RMSNorm(tuple(g["normalized_shape"]), g["eps"])),
        "group_norm": _norm(lambda g: nn.GroupNorm(g["num_groups"], int(shape(g["input"])[1]), g["eps"])),
        "dropout": _dropout(lambda rank: nn.Dropout), "alpha_dropout": _dropout(lambda rank: nn.AlphaDropout),
        "feature_dropout": _dropout(lambda rank: {3: nn.Dropout1d, 4: nn.Dropout2d}.get(rank, nn.Dropout3d)),
        "feature_alpha_dropout": _dropout(lambda rank: nn.FeatureAlphaDropout),
        "gelu": _one(lambda g: nn.GELU(g["approximate"])), "silu": _one(lambda g: nn.SiLU()), "mish": _one(lambda g: nn.Mish()),
        "hardswish": _one(lambda g: nn.Hardswish()), "hardsigmoid": _one(lambda g: nn.Hardsigmoid()),
        "sigmoid": _one(lambda g: nn.Sigmoid()), "tanh": _one(lambda g: nn.Tanh()), "elu": _one(lambda g: nn.ELU(g["alpha"])),
        "selu": _one(lambda g: nn.SELU()), "celu": _one(lambda g: nn.CELU(g["alpha"])),
        "softplus": _one(lambda g: nn.Softplus(g["beta"], g["threshold"])), "log_sigmoid": _one(lambda g: nn.LogSigmoid()),
        "hardtanh": _one(lambda g: nn.Hardtanh(g["min_val"], g["max_val"])), "glu": _one(lambda g: nn.GLU(g["dim"])),
        "leaky_relu": _one(lambda g: nn.LeakyReLU(g["negative_slope"])),
        "rrelu": _one(lambda g: nn.LeakyReLU((g["lower"] + g["upper"]) / 2)),
        "softmax": _one(lambda g: nn.Softmax(g["dim"])), "_softmax": _one(lambda g: nn.Softmax(g["dim"])),
        "log_softmax": _one(lambda g: nn.LogSoftmax(g["dim"])), "_log_softmax": _one(lambda g: nn.LogSoftmax(g["dim"])),
        "avg_pool1d": _pool(nn.AvgPool1d, *AVERAGE), "avg_pool2d": _pool(nn.AvgPool2d, *AVERAGE),
        "avg_pool3d": _pool(nn.AvgPool3d, *AVERAGE), "adaptive_avg_pool1d": _pool(nn.AdaptiveAvgPool1d, "output_size"),
        "adaptive_avg_pool2d": _pool(nn.AdaptiveAvgPool2d, "output_size"),
        "adaptive_avg_pool3d": _pool(nn.AdaptiveAvgPool3d, "output_size"),
        "max_pool1d": _pool(nn.MaxPool1d, *POOL), "max_pool2d": _pool(nn.MaxPool2d, *POOL),
        "max_pool3d": _pool(nn.MaxPool3d, *POOL),
        "max_pool1d_with_indices": _pool_with_indices(nn.MaxPool1d, *POOL),
        "max_pool2d_with_indices": _pool_with_indices(nn.MaxPool2d, *POOL),
        "max_pool3d_with_indices": _pool_with_indices(nn.MaxPool3d, *POOL),
        "adaptive_max_pool1d": _pool_with_indices(nn.AdaptiveMaxPool1d, "output_size"),
        "adaptive_max_pool2d": _pool_with_indices(nn.AdaptiveMaxPool2d, "output_size"),
        "adaptive_max_pool3d": _pool_with_indices(nn.AdaptiveMaxPool3d, "output_size"),
        "upsample_nearest1d": _interpolate("nearest"), "upsample_nearest2d": _interpolate("nearest"),
        "upsample_nearest3d": _interpolate("nearest"), "upsample_linear1d": _interpolate("linear"),
        "upsample_bilinear2d": _interpolate("bilinear"), "upsample_trilinear3d": _interpolate("trilinear"),
        "upsample_bicubic2d": _interpolate("bicubic"),
        **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell"), _refuse(RECURRENT)),
        **dict.fromkeys(("copy", "index_put", "fill"), _refuse("writes into part of a tensor; build the result with torch.cat")),
    }  # fmt: skip
    return rules | dict.fromkeys(FORMULAS, _formula)


RULES = _rules()
