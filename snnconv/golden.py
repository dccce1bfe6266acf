"""The golden model: an integer network step by step in NumPy, with int64 sums that are held to int32; no torch arithmetic."""

import operator
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, fx, nn
from torch.nn import functional as F

from snnconv.evaluation import wanted_timesteps
from snnconv.integer import Digitize, IntegerNetwork, SumPool, Times
from snnconv.spiking import OverTime, watched

INT32 = np.iinfo(np.int32)


def simulate(network: IntegerNetwork, images: np.ndarray, timesteps: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits [T, N, K] and spikes [T, N, …] of every layer, by path, for float images [N, C, H, W] (which are digitized first).

    ValueError naming the layer whose sums leave int32.
    """
    golden = _Golden(network.snn.network)
    logits = [golden.run(images) for _ in range(timesteps)]
    return np.stack(logits), {path: np.stack(steps) for path, steps in golden.spikes.items()}


def differing_spikes(
    network: IntegerNetwork, batches: Iterable[tuple[Tensor, Any]], timesteps: int | Sequence[int], images: int
) -> tuple[int, int]:
    """Spikes in which the ordinary path and the golden model differ on the first `images` images, and how many these are.

    At the largest of the `timesteps`.  A logit that differs counts as well.
    """
    steps, different, seen = max(wanted_timesteps(timesteps)), 0, 0
    for x, _ in batches:
        x = x[: images - seen]
        if not len(x):
            break
        own: dict[str, list[Tensor]] = defaultdict(list)

        def observe(path: str, spikes: Tensor, own: dict[str, list[Tensor]] = own) -> None:
            own[path].append(spikes.cpu())

        with watched(network.snn, observe):
            logits = network.snn(x, steps).cpu()
        golden_logits, golden = simulate(network, x.cpu().numpy(), steps)
        different += int((logits.numpy() != golden_logits).sum())
        different += sum(int((torch.cat(own[path]).numpy() != spikes).sum()) for path, spikes in golden.items())
        seen += len(x)
    return different, seen


class _Golden(fx.Interpreter):
    """One timestep a run; potentials stay."""

    def __init__(self, network: Any) -> None:
        super().__init__(network, garbage_collect_values=False)
        self.v: dict[str, np.ndarray] = {}
        self.spikes: dict[str, list[np.ndarray]] = {}

    def call_module(self, target: Any, args: tuple, kwargs: dict) -> np.ndarray:
        """A layer, a neuron, or what stands between."""
        module: Any = self.fetch_attr(target)
        x = args[0]
        if isinstance(module, OverTime):
            return self._fire(target, module.neuron.node, x)
        if isinstance(module, Digitize):
            return np.clip(np.rint(x.astype(np.float32) / np.float32(module.unit)), -module.most, module.most).astype(
                np.int64
            )
        if isinstance(module, nn.Conv2d):
            return _held(target, _convolve(x, module) + _shaped(_whole(module.bias), x))
        if isinstance(module, nn.Linear):
            return _held(target, x @ _whole(module.weight).T + _whole(module.bias))
        if isinstance(module, SumPool):
            return _sum_pool(x, module)
        if isinstance(module, Times):
            return x * _shaped(_whole(module.factor), x)
        if isinstance(module, nn.Flatten):
            return x.reshape(len(x), -1)
        if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout1d | nn.Dropout2d):
            return x
        raise ValueError(f"{target} ({type(module).__name__}): unknown to the golden model")

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """Additions, and what moves elements."""
        if target in (operator.add, operator.iadd):
            return args[0] + args[1]
        if target is operator.getitem:
            return args[0][args[1]]
        if target is F.pad:
            return _pad(args[0], [*args[1:], *kwargs.values()][0])
        if target in FLAT:
            return args[0].reshape(len(args[0]), -1)
        if target is getattr and args[1] == "shape":
            return args[0].shape
        raise ValueError(f"{getattr(target, '__name__', target)}: unknown to the golden model")

    def call_method(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """The same as methods."""
        if target in ("add", "add_"):
            return args[0] + args[1]
        if target == "flatten" and (*args[1:], *kwargs.values()) == (1,):
            return args[0].reshape(len(args[0]), -1)
        if target in ("view", "reshape"):
            return args[0].reshape(*args[1:])
        if target == "size":
            return args[0].shape[args[1]] if args[1:] else args[0].shape
        if target == "contiguous":
            return args[0]
        raise ValueError(f"{target}: unknown to the golden model")

    def _fire(self, path: str, node: Any, current: np.ndarray) -> np.ndarray:
        theta, start = _shaped(_whole(node.theta), current), _shaped(_whole(node.start), current)
        v = self.v.get(path, np.zeros_like(current) + start) + current
        if node.bits is not None:
            v = np.clip(v, -(2 ** (node.bits - 1)), 2 ** (node.bits - 1) - 1)
        spikes = (_held(path, v) >= theta).astype(np.int64)
        self.v[path] = v - theta * spikes
        self.spikes.setdefault(path, []).append(spikes)
        return spikes


FLAT = (torch.flatten,)


def _whole(values: Any) -> np.ndarray:
    """Parameters as int64; they are whole numbers already."""
    if values is None:
        return np.zeros(1, np.int64)
    found = values.detach().cpu().double().numpy()
    assert (found == np.rint(found)).all()
    return found.astype(np.int64)


def _shaped(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """[C] (or one number) to meet axis 1."""
    return values.reshape(-1, *[1] * (like.ndim - 2)) if values.size > 1 else values


def _held(path: str, sums: np.ndarray) -> np.ndarray:
    if sums.size and (sums.min() < INT32.min or sums.max() > INT32.max):
        raise ValueError(f"{path}: sums from {sums.min()} to {sums.max()} leave int32; use fewer weight bits")
    return sums


def _convolve(x: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """A convolution with zero padding."""
    (sh, sw), (dh, dw), weights = layer.stride, layer.dilation, _whole(layer.weight)
    kh, kw = layer.kernel_size
    ph, pw = _padding(layer)
    padded = np.pad(x, ((0, 0), (0, 0), ph, pw))
    windows = sliding_window_view(padded, ((kh - 1) * dh + 1, (kw - 1) * dw + 1), axis=(2, 3))[
        :, :, ::sh, ::sw, ::dh, ::dw
    ]
    groups = np.split(windows, layer.groups, axis=1)
    parts = [np.einsum("ncyxij,dcij->ndyx", part, own, optimize=True)
             for part, own in zip(groups, np.split(weights, layer.groups), strict=True)]  # fmt: skip
    return np.concatenate(parts, axis=1)


def _padding(layer: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    if layer.padding_mode != "zeros":
        raise ValueError(f"padding_mode={layer.padding_mode!r}: the golden model pads with zeros")
    if layer.padding == "valid":
        return (0, 0), (0, 0)
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return (total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2)
    h, w = _pair(layer.padding)
    return (h, h), (w, w)


def _sum_pool(x: np.ndarray, pool: SumPool) -> np.ndarray:
    if pool.kernel is None:
        return x.sum((-2, -1), keepdims=True)
    (kh, kw), (ph, pw) = (_pair(pool.kernel), _pair(pool.padding))
    sh, sw = _pair(pool.stride or pool.kernel)
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    return sliding_window_view(padded, (kh, kw), axis=(2, 3))[:, :, ::sh, ::sw].sum((-2, -1))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _pad(x: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """torch's order: the last axis first; zeros."""
    pairs = [(0, 0)] * (x.ndim - len(widths) // 2)
    return np.pad(x, [*pairs, *[(widths[i], widths[i + 1]) for i in range(len(widths) - 2, -1, -2)]])
