"""One pass over memory for an elementwise formula, and activations that cost no memory for the backward pass.

Both change how a formula is run, never what it gives.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

SMALL = 2**15  # elements below which the tensor stays in cache and separate operations are as fast


def fused(formula: Callable[..., Any] | None = None, *, over_time: bool = False) -> Callable[..., Any]:
    """`formula`, compiled by Inductor into one kernel where that pays; its first arguments are tensors of one shape.

    The kernel sees them as flat memory, so one compilation serves every shape and layout; where an argument has one value a
    channel, it sees them as they are.  With `over_time` their first axis stays: [T, …] are seen as [T, M].  Small tensors,
    tensors with gaps and machines without a compiler take the formula as it is written, with identical results.
    """
    if formula is None:
        return functools.partial(fused, over_time=over_time)
    compiled: Callable[..., Any] | None = None
    broken = False

    @functools.wraps(formula)
    def run(*arguments: Any) -> Any:
        nonlocal broken, compiled
        first = arguments[0]
        if broken or first.numel() < SMALL or torch.compiler.is_compiling() or not _is_dense(first, over_time):
            return formula(*arguments)
        shaped_like_first = [isinstance(a, Tensor) and a.shape == first.shape for a in arguments]
        if any(
            isinstance(a, Tensor) and a.dim() > 0 and not s for a, s in zip(arguments, shaped_like_first, strict=True)
        ):
            flat = list(arguments)  # something to broadcast, which flat memory cannot be met by
        else:
            flat = [
                _flat_like(a, first, over_time) if s else a for a, s in zip(arguments, shaped_like_first, strict=True)
            ]
        compiled = compiled or torch.compile(formula, dynamic=True)
        try:
            result = compiled(*flat)
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


def is_hooked(module: nn.Module) -> bool:
    """Would calling `module` call something besides its forward: hooks of its own, or of all modules?"""
    return bool(module._forward_hooks or module._forward_pre_hooks or nn.modules.module._has_any_global_hook())
