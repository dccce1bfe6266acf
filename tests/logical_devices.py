"""Mix-ups of devices, found with real values and without a second device.

Every tensor is computed on the CPU; inside `LogicalDevices` it also has a logical device, which `.to("cuda")`, `.cuda()`,
`torch.zeros(…, device="cuda")` and `tensor.device` use.  As on a real device, an operation on tensors of two devices, or a NumPy
array of a tensor that is not on the CPU, raises an error.  Tensors of one
number on the CPU may meet others, and `copy_` moves values.
Functions of Python that run in a backward pass see the real devices.
"""

from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
UNSEEN = (
    Tensor.__deepcopy__,
    torch.quantile,
)  # they copy storages, or create tensors on the real device of their input
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten._index_put_impl_.default,
            torch.ops.aten.index_put.default}  # fmt: skip


class MixedDevices(RuntimeError):
    """An operation on tensors of two logical devices."""


class LogicalDevices(TorchDispatchMode):
    """Context in which tensors have logical devices."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: dict[StorageWeakRef, torch.device] = {}
        self.uploads: list[
            tuple[int, ...]
        ] = []  # shapes of tensors that were moved from the CPU, without single numbers

    def __enter__(self) -> "LogicalDevices":
        self.closing = ExitStack()
        for name in ("_lazy_init", "synchronize"):
            self.closing.enter_context(patch(f"torch.cuda.{name}", lambda *_: None))
        self.closing.enter_context(_LogicalProperties(self))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.closing.close()

    def of(self, tensor: Tensor) -> torch.device:
        """The logical device of `tensor`."""
        with torch._C.DisableTorchFunction():
            return self.devices.get(StorageWeakRef(tensor.untyped_storage()), CPU)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        requested = kwargs.get("device")
        if requested is not None:
            kwargs["device"] = CPU
        inputs = [x for x in tree_leaves((args[:1] if func in INDEXING else args, kwargs)) if isinstance(x, Tensor)]
        devices = {self.of(x) for x in inputs if x.dim() or len(inputs) == 1} or {self.of(x) for x in inputs}
        if len(devices) > 1 and func not in MOVES:
            raise MixedDevices(f"{func}: {[(str(self.of(x)), list(x.shape)) for x in inputs]}")
        device = (
            normal(requested)
            if requested is not None
            else self.of(inputs[0])
            if func in MOVES
            else next(iter(devices), CPU)
        )
        result = func(*args, **kwargs)
        if not func.is_view and not func._schema.is_mutable:
            for output in tree_leaves(result):
                if isinstance(output, Tensor):
                    self.devices[StorageWeakRef(output.untyped_storage())] = device
        return result


class _LogicalProperties(TorchFunctionMode):
    """Properties and conversions of tensors that depend on the device."""

    def __init__(self, mode: LogicalDevices) -> None:
        super().__init__()
        self.mode = mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in PROPERTIES:
            return PROPERTIES[func](self.mode.of(args[0]))
        if func in (Tensor.numpy, Tensor.__array__) and self.mode.of(args[0]) != CPU:
            raise MixedDevices(f"{func.__name__}() of a tensor on {self.mode.of(args[0])}; use .cpu() first")
        if func in (Tensor.cpu, Tensor.cuda):
            return self._moved(args[0], CPU if func is Tensor.cpu else CUDA)
        if func is Tensor.to:
            return self._to(*args, **kwargs)
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):  # in C++ they copy without the dispatcher
            device = kwargs.pop("device", self.mode.of(args[0]) if isinstance(args[0], Tensor) else CPU)
            return self._moved(func(*args, **kwargs), normal(device or CPU))
        if func in UNSEEN:
            with _disable_current_modes():
                result = func(*args, **kwargs)
            return self._tagged(result, self.mode.of(args[0]))
        return func(*args, **kwargs)

    def _tagged(self, result: Tensor, device: torch.device) -> Tensor:
        self.mode.devices[StorageWeakRef(result.untyped_storage())] = device
        return result

    def _to(self, tensor: Tensor, *args: Any, copy: bool = False, other: Tensor | None = None, **kwargs: Any) -> Tensor:
        if isinstance(args[0] if args else other, Tensor):
            other, args = args[0] if args else other, args[1:]
            return self._moved(tensor, self.mode.of(other), other.dtype, copy)
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        return self._moved(tensor, normal(device or self.mode.of(tensor)), dtype, copy, layout)

    def _moved(
        self, tensor: Tensor, device: torch.device, dtype: Any = None, copy: bool = False, layout: Any = None
    ) -> Tensor:
        copy, layout = copy or self.mode.of(tensor) != device, layout or torch.preserve_format
        if tensor.dim() and self.mode.of(tensor) == CPU != device:
            self.mode.uploads.append(tuple(tensor.shape))
        result = tensor.to(dtype=dtype or tensor.dtype, copy=copy, memory_format=layout)
        return self._tagged(result, device) if copy else result


PROPERTIES = {
    Tensor.device.__get__: lambda device: device,
    Tensor.is_cuda.__get__: lambda device: device == CUDA,
    Tensor.is_cpu.__get__: lambda device: device == CPU,
    Tensor.get_device: lambda device: -1 if device == CPU else device.index,
}


def normal(device: Any) -> torch.device:
    """`device` with an index, unless it is the CPU."""
    device = torch.device(device)
    return CPU if device.type == "cpu" else torch.device(device.type, device.index or 0)
