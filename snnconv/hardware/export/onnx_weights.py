"""Weight layers and batch norms as ONNX nodes, with integer weights and, where the step of the input is known, integer biases.

The sums of an int8 layer count in units of (step of the input) · (scale of the weights), and runtimes round the bias to this unit
when they compute such a layer.  The file contains the rounded bias (int32), so that all runtimes compute with the same numbers.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from snnconv.hardware.export.onnx_moves import begins_and_ends
from snnconv.hardware.export.onnx_nodes import Nodes
from snnconv.nn.graph.kinds import NORMS
from snnconv.nn.quantization import POWER_OF_TWO, Bits, LayerBits, quantize

INT32 = 2**31 - 1
AUTO = "auto"
EXACT = 1e-5  # relative difference of weights that counts as rounding of float32


class Weighted:
    """Writes layers to `nodes`.  The layers of torch get the rounded numbers, too.

    `bits` None: float weights.  `shared` names the layers that are used more than once; their biases stay floats.
    """

    def __init__(self, nodes: Nodes, bits: LayerBits | None, per_channel: bool, shared: set[str]) -> None:
        self.nodes, self.bits, self.per_channel, self.shared = nodes, bits, per_channel, shared

    def __call__(self, node: fx.Node, layer: Any, inputs: list[str], path: str) -> str | None:
        """The name of the output of `layer`; None for layers of other kinds."""
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return self._convolution(node, layer, inputs, path)
        if isinstance(layer, nn.Linear):
            return self._linear(node, layer, inputs, path)
        return self._norm(layer, inputs, path) if isinstance(layer, NORMS) else None

    def _convolution(self, node: fx.Node, layer: Any, inputs: list[str], path: str) -> str:
        if layer.padding_mode != "zeros":
            raise ValueError(f"{path}: padding_mode={layer.padding_mode!r}; only padding with zeros can be exported")
        if isinstance(layer.padding, str):
            padding = begins_and_ends(layer._reversed_padding_repeated_twice)
        else:
            padding = [*layer.padding] * 2
        weights = self._weights(str(node.target), layer), *self._bias(str(node.target), layer, inputs[0])
        return self.nodes.emit("Conv", [*inputs, *weights], path, kernel_shape=layer.kernel_size, strides=layer.stride,
                               dilations=layer.dilation, group=layer.groups, pads=padding)  # fmt: skip

    def _linear(self, node: fx.Node, layer: Any, inputs: list[str], path: str) -> str:
        name = str(node.target)
        weight = self._weights(name, layer)
        if len(node.meta["tensor_meta"].shape) == 2:
            return self.nodes.emit("Gemm", [*inputs, weight, *self._bias(name, layer, inputs[0])], path, transB=1)
        turned = self.nodes.emit("Transpose", [weight], f"{path}.transposed", perm=[1, 0])
        if layer.bias is None:
            return self.nodes.emit("MatMul", [*inputs, turned], path)
        product = self.nodes.emit("MatMul", [*inputs, turned], f"{path}.product")
        return self.nodes.emit("Add", [product, self.nodes.constant(f"{name}.bias", layer.bias)], path)

    def _norm(self, layer: Any, inputs: list[str], path: str) -> str:
        statistics = {
            "scale": layer.weight,
            "bias": layer.bias,
            "mean": layer.running_mean,
            "variance": layer.running_var,
        }
        if any(value is None for value in statistics.values()):
            raise ValueError(
                f"{path} ({type(layer).__name__}): has no statistics or no weights; use the defaults of torch"
            )
        values = [self.nodes.constant(f"{path}.{name}", value) for name, value in statistics.items()]
        return self.nodes.emit("BatchNormalization", [*inputs, *values], path, epsilon=layer.eps)

    def _weights(self, path: str, layer: Any) -> str:
        weight = f"{path}.weight"
        if self.bits is None:
            return self.nodes.constant(weight, layer.weight)
        if f"{weight}.integers" not in self.nodes.constants:
            rounded = quantize(layer.weight, self.bits.of(path), self.per_channel)
            layer.weight = nn.Parameter(rounded.values)
            self._dequantized(weight, rounded.integers, rounded.scale, np.int8)
        return weight

    def _bias(self, path: str, layer: Any, x: str) -> list[str]:
        """The name of the bias, if there is one."""
        if layer.bias is None:
            return []
        bias = f"{path}.bias"
        if self.bits is not None and x in self.nodes.levels and path not in self.shared:
            step, _ = self.nodes.levels[x]
            unit = torch.from_numpy(self.nodes.constants[f"{path}.weight.scale"]).expand(len(layer.bias)) * step
            integers = (layer.bias.detach().double() / unit.double()).round()
            if integers.abs().max() <= INT32:
                layer.bias = nn.Parameter((integers.float() * unit).detach())
                return [self._dequantized(bias, integers, unit, np.int32)]
        return [self.nodes.constant(bias, layer.bias)]

    def _dequantized(self, name: str, integers: Tensor, scale: Tensor, kind: type) -> str:
        """Integers times `scale` [C], which is stored as one number if there is one for the layer."""
        scale = scale if self.per_channel else scale[0]
        parts = [
            self.nodes.constant(f"{name}.integers", integers, kind),
            self.nodes.constant(f"{name}.scale", scale),
            self.nodes.constant(f"{name}.zero", np.zeros(scale.shape), kind),
        ]
        return self.nodes.emit("DequantizeLinear", parts, name, **({"axis": 0} if self.per_channel else {}))


def exact_bits(weight: Tensor, per_channel: bool) -> Bits | None:
    """The smallest number of bits, up to 8, that holds `weight` without rounding, as after training with weights=int4; or None."""
    largest = weight.abs().max()
    for bits in (*range(2, 9), POWER_OF_TWO):
        if (quantize(weight, bits, per_channel).values - weight).abs().max() <= EXACT * largest:
            return bits
    return None
