"""Networks with quantized weights (integers times a scale): after training, during training, and after conversion."""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.kinds import WEIGHTED
from snnconv.nn.quantization import Bits, LayerBits, quantize
from snnconv.spiking.model import SpikingModel

Model = TypeVar("Model", bound=SpikingModel | None)  # None: the result of some rehearsals


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Number format of the weights of convolutions and linear layers (`conf/weights/`); biases stay floats.

    `bits` None: floats; 2: ternary; "binary" and "power_of_two" as in `quantize`.  `layers` sets other bits for layers whose path
    matches a pattern (`LayerBits`).

    There is one scale for each output channel, or for the layer.  With `train`, training always uses quantized weights, with a
    straight-through gradient for the float weights.  ValueError for an unsupported number of bits, and for `layers` without `bits`.
    """

    bits: Bits | None = None
    per_channel: bool = True
    train: bool = True
    layers: Mapping[str, Bits] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", dict(self.layers or {}))
        if self.bits is not None:
            LayerBits(self.bits, self.layers)
        elif self.layers:
            raise ValueError(
                "weights.layers: needs weights.bits, the bits of all other layers; use weights=int8_per_channel"
            )
        if type(self.per_channel) is not bool or type(self.train) is not bool:
            raise ValueError(
                f"weights.per_channel={self.per_channel!r}, weights.train={self.train!r}: must be true or false"
            )

    def __call__(self, network: nn.Module) -> nn.Module:
        """A copy of `network` with quantized weights, or `network` itself if weights are floats."""
        if self.bits is None:
            return network
        network = copy.deepcopy(network)
        for path, layer in self._of(network).items():
            layer.weight.data = self._quantized(path, layer.weight)
        return network

    def bits_of(self, path: str) -> Bits | None:
        """Bits of the weights of the layer at `path`; None for floats."""
        return None if self.bits is None else LayerBits(self.bits, self.layers).of(path)

    def facts(self) -> dict[str, Any]:
        """The format for JSON."""
        return {"bits": self.bits, "per_channel": self.per_channel, **({"layers": self.layers} if self.layers else {})}

    @contextmanager
    def trained(self, network: nn.Module) -> Iterator[None]:
        """Context in which the weights of `network` are quantized; gradients computed inside belong to the float weights.

        Bengio et al., 2013 (straight through); Courbariaux et al., 2015 (the floats are kept beside).
        """
        layers = self._of(network) if self.train else {}
        floats = [layer.weight.data.clone() for layer in layers.values()]
        with torch.no_grad():
            for path, layer in layers.items():
                layer.weight.data.copy_(self._quantized(path, layer.weight))
        try:
            yield
        finally:
            with torch.no_grad():
                for layer, weight in zip(layers.values(), floats, strict=True):
                    layer.weight.data.copy_(weight)

    def convert(self, method: Callable[..., Model], ann: nn.Module, batches: Iterable) -> Model:
        """`ann` with quantized weights, converted by `method` to a spiking network.

        Weights that the method changes, or that receive channels of different θ, are quantized again.  None if `method`, a
        rehearsal, returns None.
        """
        if self.bits is None:
            return method(ann, batches)
        ann = self(ann)
        snn, before = method(ann, batches), _layers(fold_batchnorm(ann))
        return snn and snn.changed(functools.partial(self._settled, before))  # type: ignore[return-value, union-attr]

    @torch.no_grad()
    def _settled(self, before: Mapping[str, Any], network: nn.Module) -> nn.Module:
        """`network`, in which weights that differ from those `before` conversion by more than a factor are quantized."""
        for path, layer in _layers(network).items():
            if path not in before or not _proportional(layer.weight, before[path].weight):
                layer.weight = nn.Parameter(self._quantized(path, layer.weight))
        return network

    def _of(self, network: nn.Module) -> dict[str, Any]:
        """The layers whose weights are quantized, by path; ValueError for a pattern that matches none."""
        if self.bits is None:
            return {}
        layers = _layers(network)
        LayerBits(self.bits, self.layers).require_matches(layers, "weights.layers")
        return layers

    def _quantized(self, path: str, weight: Tensor) -> Tensor:
        bits = self.bits_of(path)
        assert bits is not None
        return quantize(weight.detach(), bits, self.per_channel).values


def _layers(network: nn.Module) -> dict[str, Any]:
    return {path: module for path, module in network.named_modules() if isinstance(module, WEIGHTED)}


def _proportional(one: Tensor, other: Tensor) -> bool:
    """Whether these weights are equal up to one factor."""
    if one.shape != other.shape:
        return False
    one, other = one.double(), other.to(one.device).double()
    factor = (one * other).sum() / other.square().sum().clamp_min(1e-300)
    return bool((one - factor * other).abs().max() <= 1e-5 * one.abs().max())
