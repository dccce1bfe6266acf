"""Elementwise formulas as one fused kernel, and as one call of an exported graph.

Both change how a formula is run, never its result.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from snnconv.runtime.compilation import compiled

log = logging.getLogger(__name__)

SMALL = 2**15  # elements below which the tensor stays in cache and separate operations are as fast
_LIBRARY = torch.library.Library("snnconv", "FRAGMENT")


def fused(formula: Callable[..., Any] | None = None, *, over_time: bool = False) -> Callable[..., Any]:
    """`formula`, compiled by Inductor into one kernel where that pays; its first arguments are tensors of one shape.

    The kernel gets them as flat memory, so one compilation serves every shape and layout; if an argument has one value per
    channel, it gets them unchanged.  With `over_time` the first axis is kept: [T, …] become [T, M].  The formula runs as it is
    written, with identical results, for small tensors, for tensors with gaps, while torch traces, exports or compiles, for
    subclasses of Tensor (such as fake tensors) and on machines without a compiler.
    """
    if formula is None:
        return functools.partial(fused, over_time=over_time)
    kernel: Callable[..., Any] | None = None
    broken = False

    @functools.wraps(formula)
    def run(*arguments: Any) -> Any:
        nonlocal broken, kernel
        first = arguments[0]
        if broken or is_traced(first) or first.numel() < SMALL or not _is_dense(first, over_time):
            return formula(*arguments)
        shaped_like_first = [isinstance(a, Tensor) and a.shape == first.shape for a in arguments]
        if any(
            isinstance(a, Tensor) and a.dim() > 0 and not s for a, s in zip(arguments, shaped_like_first, strict=True)
        ):
            flat = list(arguments)  # an argument to broadcast needs the shape
        else:
            flat = [
                _flat_like(a, first, over_time) if s else a for a, s in zip(arguments, shaped_like_first, strict=True)
            ]
        kernel = kernel or compiled(formula, dynamic=True)
        try:
            result = kernel(*flat)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            log.info("No fused kernels here (%s); continuing with separate operations", str(error).splitlines()[0])
            broken = True
            return formula(*arguments)
        parts = result if isinstance(result, tuple) else (result,)
        shaped = [
            part.as_strided(first.shape, first.stride())
            if flat[0] is not first and part.shape == flat[0].shape
            else part
            for part in parts
        ]
        return tuple(shaped) if isinstance(result, tuple) else shaped[0]

    return run


def one_call(schema: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorates a formula that torch.export shall record as one call, `torch.ops.snnconv.<name>`, with this `schema`.

    The operator is implicit (CompositeImplicitAutograd): it is the formula, so values, gradients, devices, fake tensors and
    autocast need no code of their own, and `ExportedProgram.run_decompositions()` replaces it by ATen operations.  Outside
    torch.export the formula is called directly, so torch.compile fuses it with its neighbours.
    """

    def decorate(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name, _ = schema.split("(", 1)
        _LIBRARY.define(schema)
        _LIBRARY.impl(name, formula, "CompositeImplicitAutograd")

        @functools.wraps(formula)
        def run(*arguments: Any) -> Tensor:
            if torch.compiler.is_exporting():
                return getattr(torch.ops.snnconv, name)(*arguments)
            return formula(*arguments)

        return run

    return decorate


def is_traced(tensor: Tensor) -> bool:
    """Whether something records the operations on `tensor` and a kernel would hide them."""
    return (
        torch.compiler.is_compiling()
        or type(tensor) not in (Tensor, nn.Parameter)
        or _get_current_dispatch_mode() is not None
    )


def _is_dense(tensor: Tensor, over_time: bool = False) -> bool:
    if over_time:
        return tensor.stride(0) == tensor[0].numel() and _is_dense(tensor[0])
    return tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def _flat_like(tensor: Tensor, first: Tensor, over_time: bool = False) -> Tensor:
    """`tensor` as one dimension, or time and one dimension, its elements in the memory order of `first`."""
    if tensor.stride() != first.stride():
        tensor = torch.empty_like(first, dtype=tensor.dtype).copy_(tensor)
    elements = tensor.numel() // len(tensor) if over_time else tensor.numel()
    return (
        tensor.as_strided((len(tensor), elements), (elements, 1)) if over_time else tensor.as_strided((elements,), (1,))
    )


def to_channels_last(network: nn.Module) -> None:
    """Lay out images of weights and buffers with the channels last; tensors of other ranks stay (`Module.to` fails on rank 5)."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def is_hooked(module: nn.Module) -> bool:
    """Whether calling `module` runs more than its forward: its own hooks, or global ones."""
    return bool(module._forward_hooks or module._forward_pre_hooks or nn.modules.module._has_any_global_hook())
