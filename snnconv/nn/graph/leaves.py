"""Modules that stay unchanged in the captured graph of a network."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.nn.graph.batch_axis import batch_axis
from snnconv.nn.graph.kinds import PASSING, is_activation
from snnconv.nn.graph.sites import Attention, BoundedReLU, Elementwise, Extremum, MatMul, Product, Quotient
from snnconv.nn.graph.trace import Operation

COMPOSED = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, nn.MultiheadAttention, nn.Transformer,
    nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.TransformerDecoder, nn.TransformerDecoderLayer, nn.RNNBase,
    nn.RNNCellBase, nn.SyncBatchNorm, nn.DataParallel, nn.Bilinear, nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d,
)  # fmt: skip
SPELLINGS = (
    nn.ReLU6,
    nn.Hardtanh,
    nn.Threshold,
    nn.LeakyReLU,
    nn.RReLU,
)  # equal to ReLU for some settings: see `simplest`


@torch.library.custom_op("snnconv::opaque", mutates_args=())
def opaque(x: Tensor) -> Tensor:
    """An operation that torch.export does not decompose: a copy of `x`."""
    return x.clone()


@opaque.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Opaque(nn.Module):
    """Replaces `module` in an export, so that its inputs are marked by calls of `opaque`, in order."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *signals: Tensor) -> Any:
        """Output of the module; an activation is not run, since it keeps the shape."""
        inputs = [opaque(signal) for signal in signals]
        return inputs[0] if is_activation(self.module) else self.module(*inputs)


def is_opaque(module: nn.Module, kinds: tuple[type, ...] = ()) -> bool:
    """Whether the graph holds `module` as one operation: an activation with a threshold, an `Operation`, or one of `kinds`.

    A subclass of nn.ReLU counts as nn.ReLU in `kinds` only if its forward pass is that of nn.ReLU.
    """
    if isinstance(module, nn.ReLU) and not isinstance(module, Operation):
        return issubclass(nn.ReLU, kinds) and is_plain_relu(module)
    return is_activation(module) or isinstance(module, (*kinds, Operation))


def is_plain_relu(module: nn.Module) -> bool:
    """Whether `module` has the forward pass of nn.ReLU and no hooks."""
    return type(module).forward is nn.ReLU.forward and not module._forward_hooks and not module._forward_pre_hooks


def original(module: nn.Module) -> nn.Module:
    """The module that an `Opaque` replaces; any other module itself."""
    return module.module if isinstance(module, Opaque) else module


def stays(module: nn.Module) -> bool:
    """Whether `module` stays one operation: an `Opaque`, or a module of torch.nn without submodules and hooks."""
    if isinstance(module, Opaque):
        return True
    plain = type(module).__module__.startswith("torch.nn.modules.") and not isinstance(module, COMPOSED)
    return plain and not [*module.children()] and not module._forward_hooks and not module._forward_pre_hooks


def simplest(module: nn.Module) -> nn.Module:
    """`module`, or an equivalent nn.ReLU, `BoundedReLU` or nn.LeakyReLU; activations do not work in place."""
    if isinstance(module, nn.ReLU6 | nn.Hardtanh) and module.min_val == 0 and module.max_val > 0:
        return BoundedReLU(float(module.max_val))
    if isinstance(module, nn.RReLU):
        module = nn.LeakyReLU((module.lower + module.upper) / 2)
    if isinstance(module, nn.LeakyReLU) and module.negative_slope == 0:
        return nn.ReLU()
    if isinstance(module, nn.Threshold) and module.threshold == module.value == 0:
        return nn.ReLU()
    if getattr(module, "inplace", False):
        module.inplace = False  # type: ignore[assignment]  # the graph would not show the change
    return module


def twin(module: nn.Module) -> nn.Module:
    """A copy of `module` that shares its parameters and buffers, but not its hooks."""
    other = copy.copy(module)
    vars(other).update({name: value.copy() for name, value in vars(module).items() if isinstance(value, dict)})
    return other


def takes_axis(module: nn.Module, axis: int, source: fx.Node) -> bool:
    """Whether `module` (not `is_site`) allows the batch as dimension `axis` of its input, the output of `source`."""
    if isinstance(module, nn.Linear):
        return axis != source.meta["val"].dim() - 1
    return isinstance(module, (*PASSING, nn.Dropout3d, nn.AlphaDropout, nn.Flatten, nn.Unflatten))


def works_along(module: nn.Module, axis: int, source: fx.Node) -> bool:
    """Whether `module` (`is_site`) combines elements along dimension `axis` of its input, the output of `source`."""
    rank = source.meta["val"].dim()
    if isinstance(module, nn.LayerNorm):
        return axis >= rank - len(module.normalized_shape)
    dim = getattr(module, "dim", None) if isinstance(module, nn.Softmax | nn.LogSoftmax | nn.GLU) else None
    return isinstance(dim, int) and dim % rank == axis


def moved(module: nn.Module, axes: Sequence[int], sources: Sequence[fx.Node], node: fx.Node) -> nn.Module:
    """`module` (`is_site`) for inputs whose batch was moved from dimensions `axes` to 0; ValueError if that is impossible."""
    ranks = {source.meta["val"].dim() for source in sources}
    (axis, *others), rank = set(axes), max(ranks)
    alike = not others and len(ranks) == 1 and batch_axis(node) == axis
    if isinstance(module, nn.Softmax | nn.LogSoftmax) and module.dim is not None and axis != module.dim % rank:
        dim = module.dim % rank
        return type(module)(dim + 1 if dim < axis else dim)
    elementwise = (
        nn.ReLU,
        Elementwise,
        Product,
        Quotient,
        Extremum,
        nn.GELU,
        nn.SiLU,
        nn.Sigmoid,
        nn.Tanh,
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.LeakyReLU,
    )
    last = len(module.normalized_shape) if isinstance(module, nn.LayerNorm) else 2
    if alike and (isinstance(module, elementwise) or is_activation(module)):
        return module
    if alike and isinstance(module, nn.LayerNorm | MatMul | Attention) and axis < rank - last:
        return module
    raise ValueError(
        f"{type(module).__name__}: expects the images in dimension 0, but they are in dimension {axis}; move the batch there"
    )
