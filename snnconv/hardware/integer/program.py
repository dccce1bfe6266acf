"""An integer network as a list of steps on arrays of known shapes, for golden.py, files and C code; without torch.

| kind | arrays (int32 [C]) | settings | result |
| --- | --- | --- | --- |
| image | | most | integers within ±most |
| conv | weights [C, c, kh, kw] (int8 or int16), multiplier, bias | stride, dilation, padding (top, left), groups | as below |
| linear | weights [C, c] (likewise), multiplier, bias | | multiplier · (weights x) + bias |
| sum_pool | | kernel, stride, padding | sums over windows |
| times | factor | | factor · x |
| requantize | multiplier | shift | (multiplier · x + 2^(shift−1)) >> shift |
| add | | | x + y |
| move | | start, step (of channel, row, column) | x[start + step · i], 0 beside it |
| reshape | | | the same numbers in order |
| fire | threshold, start | bits | v ← v + x, within `bits` bits unless 0; 1 where v ≥ threshold, v ← v − threshold |

`start` is v(0): [C], or one number for each element of the layer, in order.  In format 2 `fire` can have two more entries: the
array `bias` [T, C], of which row t is added to x in timestep t (from 0; later timesteps use the last row), and the setting
`no_debt`: after each timestep, v ← max(v, 0) where there was no 1 so far.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from snnconv.hardware.integer.network import IntegerNetwork
from snnconv.hardware.integer.operations import Digitize, Requantize, SumPool, Times
from snnconv.nn.quantization import stored_bits
from snnconv.spiking.network import OverTime


@dataclass(frozen=True)
class Step:
    """One operation: `inputs` are numbers of earlier steps, `shape` is [C, H, W], [C, L] or [C], without the batch."""

    kind: str
    name: str  # the path of its module
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of elements of its result for one image."""
        return prod(self.shape)


@dataclass(frozen=True)
class Program:
    """`steps` in order, of which `output` makes the logits; images count in `image_unit`, membranes and logits in `units` [C]."""

    steps: list[Step]
    output: int
    image_unit: float
    units: dict[str, np.ndarray]

    @property
    def image(self) -> Step:
        """The step that takes an image."""
        return next(step for step in self.steps if step.kind == "image")

    def neurons(self) -> dict[str, int]:
        """Numbers of the steps that spike, by path."""
        return {step.name: number for number, step in enumerate(self.steps) if step.kind == "fire"}

    @property
    def varied(self) -> bool:
        """Whether some neurons have a bias, or no negative charge before their first spike."""
        neurons = [step for step in self.steps if step.kind == "fire"]
        return any("bias" in step.arrays or step.settings.get("no_debt") for step in neurons)

    def digitize(self, images: np.ndarray) -> np.ndarray:
        """Images [N, C, H, W] as integers: round(x / unit), ties to even, within ±most; ValueError for NaN and infinite pixels."""
        if not np.isfinite(images).all():
            raise ValueError("images contain NaN or infinite pixels, which have no integer")
        most = self.image.settings["most"]
        whole = np.rint(images.astype(np.float32) / np.float32(self.image_unit))
        return np.clip(whole, -most, most).astype(np.int64)


def program_of(network: IntegerNetwork, image_shape: Sequence[int]) -> Program:
    """The steps of `network` for images of `image_shape` [C, H, W].  ValueError naming what has no place among them."""
    lowering = _Lowering(network)
    output = lowering.run(_Ref(-1, tuple(image_shape)))
    units = {path: unit.double().numpy() for path, unit in network.units.items()}
    digitize: Any = next(module for module in network.snn.network.modules() if isinstance(module, Digitize))
    return Program(lowering.steps, output.number, digitize.unit, units)


@dataclass(frozen=True)
class _Ref:
    """A reference to the result of a step, in the place of a tensor."""

    number: int
    shape: tuple[int, ...]  # without the batch


class _Lowering(fx.Interpreter):
    """Runs the graph on references; `steps` is what remains."""

    def __init__(self, network: IntegerNetwork) -> None:
        super().__init__(network.snn.network, garbage_collect_values=False)
        self.layers, self.steps = network.layers, []  # type: ignore[var-annotated]

    def _step(
        self, kind: str, name: str, inputs: Sequence[_Ref], shape: Sequence[int], settings: Any = None, **arrays: Any
    ) -> _Ref:
        converted = {key: _whole(values) for key, values in arrays.items()}
        sources = tuple(ref.number for ref in inputs if ref.number >= 0)
        self.steps.append(Step(kind, name, sources, tuple(int(n) for n in shape), settings or {}, converted))
        return _Ref(len(self.steps) - 1, self.steps[-1].shape)

    def call_module(self, target: Any, args: tuple, kwargs: dict) -> _Ref:
        """A layer, a neuron, or what stands between."""
        module: Any = self.fetch_attr(target)
        x: _Ref = args[0]
        if isinstance(module, Digitize):
            return self._step("image", target, [x], x.shape, {"most": module.most})
        if isinstance(module, OverTime):
            node: Any = module.neuron.node
            arrays = {"threshold": node.theta.reshape(-1), "start": node.start.reshape(-1)}
            if node.bias is not None:
                arrays["bias"] = node.bias
            settings = {"bits": node.bits or 0, **({"no_debt": True} if node.no_debt else {})}
            return self._step("fire", target, [x], x.shape, settings, **arrays)
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            return self._convolution(target, module, x)
        if isinstance(module, nn.Linear) and len(x.shape) == 1:
            return self._step("linear", target, [x], (module.out_features,), {}, **self._weights(target))
        if isinstance(module, SumPool):
            kernel = x.shape[1:] if module.kernel is None else _pair(module.kernel)
            stride, padding = _pair(module.stride or kernel), _pair(module.padding)
            space = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(x.shape[1:], padding, kernel, stride, strict=True)]
            settings = {"kernel": list(kernel), "stride": list(stride), "padding": list(padding)}
            return self._step("sum_pool", target, [x], (x.shape[0], *space), settings)
        if isinstance(module, Times):
            return self._step("times", target, [x], x.shape, factor=module.factor)
        if isinstance(module, Requantize):
            return self._step("requantize", target, [x], x.shape, {"shift": module.shift}, multiplier=module.multiplier)
        if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            return self._step("reshape", target, [x], (prod(x.shape),))
        if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout1d | nn.Dropout2d):
            return x
        raise ValueError(f"{target} ({type(module).__name__}): no integer step for arrays {list(x.shape)}")

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """Additions, and what moves elements."""
        name, x = getattr(target, "__name__", str(target)), args[0]
        if target in (operator.add, operator.iadd, torch.add) and not kwargs:
            return self._added(name, *args)
        if target is operator.getitem:
            return self._sliced(x, args[1]) if isinstance(x, _Ref) else x[args[1]]
        if target is F.pad:
            return self._padded(x, [*args[1:], *kwargs.values()][0])
        if target is torch.flatten and (*args[1:], *kwargs.values()) == (1,):
            return self._step("reshape", name, [x], (prod(x.shape),))
        if target is torch.reshape:
            return self._reshaped(x, [*args[1:], *kwargs.values()][0])
        if target is F.dropout:
            return x
        if target is getattr and args[1] == "shape":
            return (1, *x.shape)
        raise ValueError(f"{name}: no integer step")

    def call_method(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """Additions and reshaping by methods of tensors."""
        x = args[0]
        if target in ("add", "add_") and not kwargs:
            return self._added(target, *args)
        if target == "flatten" and (*args[1:], *kwargs.values()) == (1,):
            return self._step("reshape", target, [x], (prod(x.shape),))
        if target in ("view", "reshape"):
            return self._reshaped(x, args[1] if isinstance(args[1], tuple | list) else args[1:])
        if target == "size":
            return (1, *x.shape)[args[1]] if args[1:] else (1, *x.shape)
        if target == "contiguous":
            return x
        raise ValueError(f"{target}: no integer step")

    def _added(self, name: str, x: Any, y: Any) -> _Ref:
        if x.shape != y.shape:
            raise ValueError(f"{name}: adds {list(x.shape)} and {list(y.shape)}; arrays of one shape are added")
        return self._step("add", name, [x, y], x.shape)

    def _weights(self, path: str) -> dict[str, Any]:
        layer = self.layers[path]
        integers = layer.integers.numpy().astype(np.int8 if stored_bits(layer.bits) <= 8 else np.int16)
        return {"weights": integers, "multiplier": layer.multiplier, "bias": layer.bias}

    def _convolution(self, path: str, layer: Any, x: _Ref) -> _Ref:
        if layer.padding_mode != "zeros":
            raise ValueError(f"{path}: padding_mode={layer.padding_mode!r}: integers are padded with zeros")
        size = len(layer.kernel_size)
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if layer.padding == "same":
            padding, total = [n // 2 for n in reach], reach
        else:
            padding = [0] * size if layer.padding == "valid" else [int(n) for n in layer.padding]
            total = [2 * p for p in padding]
        sizes = zip(x.shape[1:], total, reach, layer.stride, strict=True)
        space = [(n + p - r - 1) // s + 1 for n, p, r, s in sizes]
        column = 2 - size  # a signal is an image of one column
        settings = {
            "stride": [*layer.stride, *[1] * column],
            "dilation": [*layer.dilation, *[1] * column],
            "padding": [*padding, *[0] * column],
            "groups": layer.groups,
        }
        arrays = self._weights(path)
        arrays["weights"] = arrays["weights"].reshape(*arrays["weights"].shape[:2], *layer.kernel_size, *[1] * column)
        return self._step("conv", path, [x], (layer.out_channels, *space), settings, **arrays)

    def _sliced(self, x: _Ref, index: Any) -> _Ref:
        given = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(part, slice) for part in given) or given[0] != slice(None) or len(x.shape) != 3:
            raise ValueError(f"[{index}]: of spikes [N, C, H, W] only slices of channels, rows and columns are taken")
        parts = [*given[1:], *[slice(None)] * (4 - len(given))]
        ranges = [range(*part.indices(n)) for part, n in zip(parts, x.shape, strict=True)]
        settings = {"start": [r.start for r in ranges], "step": [r.step for r in ranges]}
        return self._step("move", "slice", [x], [len(r) for r in ranges], settings)

    def _padded(self, x: _Ref, widths: Sequence[int]) -> _Ref:
        """torch's order: the last axis first."""
        if len(x.shape) != 3 or len(widths) > 6:
            raise ValueError(
                f"pad({list(widths)}): zeros are put beside spikes [N, C, H, W], in channels, rows and columns"
            )
        full = [*widths, *[0] * (6 - len(widths))]
        before, after = full[4::-2], full[5::-2]
        shape = [n + a + b for n, a, b in zip(x.shape, before, after, strict=True)]
        return self._step("move", "pad", [x], shape, {"start": [-n for n in before], "step": [1, 1, 1]})

    def _reshaped(self, x: _Ref, shape: Sequence[int]) -> _Ref:
        sizes = np.empty((1, *x.shape), np.bool_).reshape(tuple(shape)).shape
        if sizes[0] != 1 or len(sizes) not in (2, 4):
            raise ValueError(f"reshape to {list(shape)}: the batch stays the first axis, of [N, C] or [N, C, H, W]")
        return self._step("reshape", "reshape", [x], sizes[1:])


def _whole(values: Any) -> np.ndarray:
    """As int32, but weights, which have their width already."""
    numbers = values if isinstance(values, np.ndarray) else values.detach().cpu().double().numpy()
    whole = numbers if numbers.dtype.kind == "i" else np.rint(numbers).astype(np.int32)
    assert (whole == numbers).all()
    return whole


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
