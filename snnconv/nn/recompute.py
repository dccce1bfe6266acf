"""Activations that need no memory for the backward pass."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class RecomputedOutputs(saved_tensors_hooks):
    """Context in which a layer that would save an activation's output for its backward pass saves how to recompute it.

    An activation whose own backward needs its input would otherwise cost a second tensor beside the output that the next
    layer saves; with this, a training step holds as many tensors as with ReLU.  Results are bit-identical.
    """

    _open: "RecomputedOutputs | None" = None

    def __init__(self) -> None:
        super().__init__(self._pack, lambda packed: packed() if callable(packed) else packed)
        self.outputs: dict[int | None, tuple[weakref.ref[Tensor], int, Callable[[], Tensor]]] = {}

    def __enter__(self) -> None:
        RecomputedOutputs._open = self
        super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        RecomputedOutputs._open = None
        self.outputs.clear()

    @classmethod
    def offer(cls, output: Tensor, recompute: Callable[[], Tensor]) -> None:
        """Register `recompute`, which gives `output` again from tensors that are saved anyway."""
        if cls._open is not None and (address := _address(output)) is not None:
            cls._open.outputs[address] = (weakref.ref(output), output._version, recompute)

    def _pack(self, tensor: Tensor) -> Tensor | Callable[[], Tensor]:
        offered = self.outputs.get(_address(tensor))
        output = offered[0]() if offered else None
        if offered is None or output is None or output.shape != tensor.shape or output.stride() != tensor.stride():
            return tensor
        _, version, recompute = offered
        return recompute if output._version == version else tensor  # after an in-place change, save the tensor itself


def _address(tensor: Tensor) -> int | None:
    """Address of the elements; None for a subclass of Tensor, such as a fake tensor, which may have no memory."""
    return tensor.data_ptr() if type(tensor) in (Tensor, nn.Parameter) else None
