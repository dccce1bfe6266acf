"""Activations that cost no memory for the backward pass."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class RecomputedOutputs(saved_tensors_hooks):
    """While open, layers that keep an activation's output for their backward pass keep the means to compute it again.

    An activation whose own backward needs its input would otherwise cost a second tensor beside the output that the next
    layer keeps; with this, a training step holds as many tensors as with ReLU.  Results are bit-identical.
    """

    _open: "RecomputedOutputs | None" = None

    def __init__(self) -> None:
        super().__init__(self._pack, lambda packed: packed() if callable(packed) else packed)
        self.outputs: dict[int, tuple[weakref.ref[Tensor], int, Callable[[], Tensor]]] = {}

    def __enter__(self) -> None:
        RecomputedOutputs._open = self
        super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        RecomputedOutputs._open = None
        self.outputs.clear()

    @classmethod
    def offer(cls, output: Tensor, recompute: Callable[[], Tensor]) -> None:
        """Say how `output` can be computed again, from tensors that are kept anyway."""
        if cls._open is not None:
            cls._open.outputs[output.data_ptr()] = (weakref.ref(output), output._version, recompute)

    def _pack(self, tensor: Tensor) -> Tensor | Callable[[], Tensor]:
        found = self.outputs.get(tensor.data_ptr())
        output = found[0]() if found else None
        if found is None or output is None or output.shape != tensor.shape or output.stride() != tensor.stride():
            return tensor
        _, version, recompute = found
        return recompute if output._version == version else tensor  # else it was changed where it lies
