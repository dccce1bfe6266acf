"""An ANN as an ONNX graph: folded batch norms, quantized activations as QDQ nodes, and optionally int8 weights."""

import copy
import importlib
import operator
from collections import Counter
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from snnconv.hardware.export.checking import require_opset
from snnconv.hardware.export.normal_values import calls, site
from snnconv.nn.activations.clipped_relu import ClippedReLU
from snnconv.nn.activations.noisy_qcfs import NoisyQCFS
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.qcfs_floor_first import QCFSFloorFirst
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.kinds import ADDITIONS, NORMS, PASSING, RELU_CALLS, RESHAPING, is_activation
from snnconv.nn.graph.names import free_name
from snnconv.nn.graph.pooling import average_pool
from snnconv.nn.graph.trace import trace
from snnconv.nn.quantization import largest_integer, quantize

QUANTIZED = (QCFS, QCFSFloorFirst, NoisyQCFS)  # the same function in eval mode
MOST_LEVELS = 255  # largest value of uint8
RESERVED = ("images", "logits", "zero", "zero_uint8")  # tensors of the graph itself


class Built:
    """`model` is the ONNX model of `ann`; `network` is the equivalent torch network, with the same rounded weights.

    `sites` holds the activations by fx node: (path, name of the tensor of integers or None, name of the output tensor).
    """

    @torch.no_grad()
    def __init__(
        self, ann: nn.Module, example: Tensor, weight_bits: int | None, per_channel: bool = True, opset: int = 17
    ) -> None:
        onnx = package("onnx")
        require_opset(opset, onnx.defs.onnx_opset_version())
        if weight_bits is not None and largest_integer(weight_bits) > largest_integer(8):
            raise ValueError(f"export.weight_bits={weight_bits}: must be 2 to 8 (stored as int8), or null for float32")
        self.bits, self.per_channel = weight_bits, per_channel
        self.helper, self.numpy_helper = onnx.helper, onnx.numpy_helper
        self.network = fold_batchnorm(copy.deepcopy(ann)).float().cpu()
        self.modules: dict[str, Any] = dict(self.network.named_modules())
        self.graph = trace(self.network)
        ShapeProp(fx.GraphModule(self.network, self.graph)).propagate(example[:1].float().cpu())
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.names: dict[fx.Node, str] = {}
        self.sites: dict[fx.Node, tuple[str, str | None, str]] = {}
        self.levels: dict[str, tuple[Tensor, int]] = {}  # step and number of levels of a tensor
        self.plain: Counter = Counter()
        for node in self.graph.nodes:
            if "tensor_meta" in node.meta:
                self.names[node] = self._value(node)
        self.model = self._model(example, opset)
        try:
            onnx.checker.check_model(self.model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ValueError(f"the checker of onnx does not accept the model: {error}") from error

    def _model(self, example: Tensor, opset: int) -> Any:
        helper, float32 = self.helper, self.helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
        logits = next(iter(reversed(self.graph.nodes))).meta["tensor_meta"].shape
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("images", float32, ["N", *example.shape[1:]])],
            [helper.make_tensor_value_info("logits", float32, ["N", *logits[1:]])],
            [self.numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        imports = [helper.make_opsetid("", opset)]
        version = helper.find_min_ir_version_for(imports)
        model = helper.make_model(graph, opset_imports=imports, ir_version=version, producer_name="snnconv")
        bits = "float" if self.bits is None else str(self.bits)
        helper.set_model_props(model, {"weight_bits": bits, "per_channel": str(self.per_channel).lower()})
        return model

    def _emit(self, operation: str, inputs: Sequence[str], name: str, **settings: Any) -> str:
        """Add a node whose output has the same name, and return the name."""
        self.nodes.append(self.helper.make_node(operation, list(inputs), [name], name=name, **settings))
        return name

    def _constant(self, name: str, value: Any, kind: type = np.float32) -> str:
        value = value.detach().numpy() if isinstance(value, Tensor) else value
        self.constants[name] = np.array(value, dtype=kind, order="C")
        return name

    def _value(self, node: fx.Node) -> str:
        """The name of the tensor that holds the output of `node`."""
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        inputs = [self.names[source] for source in node.all_input_nodes if source in self.names]
        if node.op == "placeholder":
            return "images"
        if node.op == "output":
            return self._emit("Identity", inputs, "logits")
        path = free_name(node.name if module is None else str(node.target), {*RESERVED, *self.names.values()})
        if isinstance(module, PASSING) or calls(node, (F.dropout, "contiguous")):
            return inputs[0]
        if calls(node, RELU_CALLS) or (module is not None and (is_activation(module) or isinstance(module, nn.ReLU))):
            return self._activation(node, module, inputs[0], path)
        for make in (self._weighted, self._pooled, self._moved):
            tensor = make(node, module, inputs, path)
            if tensor is not None:
                return tensor
        if calls(node, ADDITIONS) and len(inputs) == 2 and not node.kwargs:
            return self._emit("Add", inputs, path)
        raise ValueError(f"{site(node, module)}: export to ONNX does not support this operation")

    def _activation(self, node: fx.Node, module: Any, x: str, path: str) -> str:
        if module is None or isinstance(module, nn.ReLU):
            output, integers = self._emit("Relu", [x], path), None
            self.plain["Relu"] += 1
        elif type(module) is ClippedReLU:
            bounds = [self._constant("zero", 0.0), self._constant(f"{path}.theta", module.threshold)]
            output, integers = self._emit("Clip", [x, *bounds], f"{path}.clip"), None
            self.plain["Clip"] += 1
        elif type(module) in QUANTIZED:
            integers, output = self._levels(x, path, module.threshold / module.levels, module.levels)
            self.levels[output] = (module.threshold / module.levels, module.levels)
        else:
            raise ValueError(f"{site(node, module)}: is neither quantized nor clipped only, or has a threshold per channel, so it "
                             "cannot be written as QDQ nodes; train with activation=qcfs, or export=onnx_over_time")  # fmt: skip
        self.sites[node] = (path, integers, output)
        return output

    def _levels(self, x: str, path: str, step: Tensor, levels: int) -> tuple[str, str]:
        """The names of two tensors: `x` quantized to integers 0 … `levels`, and these integers times `step`.

        The upper limit is a Min of integers, because a Clip of floats before QuantizeLinear would prevent onnxruntime from
        computing the previous layer in int8.
        """
        if levels > MOST_LEVELS:
            raise ValueError(f"{path}: {levels} levels, but uint8 holds only {MOST_LEVELS}; train with fewer levels")
        scale = [self._constant(f"{path}.scale", step), self._constant("zero_uint8", 0, np.uint8)]
        rounded = self._emit("QuantizeLinear", [x, *scale], f"{path}.rounded")
        integers = self._emit("Min", [rounded, self._constant(f"{path}.most", levels, np.uint8)], f"{path}.levels")
        return integers, self._emit("DequantizeLinear", [integers, *scale], path)

    def _weighted(self, node: fx.Node, layer: Any, inputs: list[str], path: str) -> str | None:
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            if layer.padding_mode != "zeros":
                raise ValueError(
                    f"{path}: padding_mode={layer.padding_mode!r}; only padding with zeros can be exported"
                )
            if isinstance(layer.padding, str):
                padding = _begins_and_ends(layer._reversed_padding_repeated_twice)
            else:
                padding = [*layer.padding] * 2
            return self._emit("Conv", [*inputs, *self._weights(str(node.target), layer)], path, kernel_shape=layer.kernel_size,
                              strides=layer.stride, dilations=layer.dilation, group=layer.groups, pads=padding)  # fmt: skip
        if isinstance(layer, nn.Linear):
            weight, *bias = self._weights(str(node.target), layer)
            if len(node.meta["tensor_meta"].shape) == 2:
                return self._emit("Gemm", [*inputs, weight, *bias], path, transB=1)
            turned = self._emit("Transpose", [weight], f"{path}.transposed", perm=[1, 0])
            product = self._emit("MatMul", [*inputs, turned], f"{path}.product" if bias else path)
            return self._emit("Add", [product, *bias], path) if bias else product
        if isinstance(layer, NORMS):
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
            values = [self._constant(f"{path}.{name}", value) for name, value in statistics.items()]
            return self._emit("BatchNormalization", [*inputs, *values], path, epsilon=layer.eps)
        return None

    def _weights(self, path: str, layer: Any) -> list[str]:
        """The names of weight and bias (if there is one); the layer itself gets the rounded weights."""
        bias = [] if layer.bias is None else [self._constant(f"{path}.bias", layer.bias)]
        if self.bits is None:
            return [self._constant(f"{path}.weight", layer.weight), *bias]
        weight = f"{path}.weight"
        if f"{weight}.integers" not in self.constants:
            rounded = quantize(layer.weight, self.bits, self.per_channel)
            layer.weight = nn.Parameter(rounded.values)
            scale = rounded.scale if self.per_channel else rounded.scale[0]
            parts = [
                self._constant(f"{weight}.integers", rounded.integers, np.int8),
                self._constant(f"{weight}.scale", scale),
                self._constant(f"{weight}.zero", np.zeros(scale.shape), np.int8),
            ]
            self._emit("DequantizeLinear", parts, weight, **({"axis": 0} if self.per_channel else {}))
        return [weight, *bias]

    def _pooled(self, node: fx.Node, module: Any, inputs: list[str], path: str) -> str | None:
        space: Any = node.all_input_nodes[0].meta["tensor_meta"].shape[2:] if inputs else ()
        pool = average_pool(node, module) if len(space) == 2 else None
        if pool is not None and pool.whole:
            return self._averaged(self._emit("GlobalAveragePool", inputs, path), inputs[0], path, space[0] * space[1])
        if pool is not None and pool.adaptive:
            raise ValueError(
                f"{site(node, module)}: adaptive pooling to {pool.output_size} does not exist in ONNX; use size 1"
            )
        if pool is not None:
            if pool.ceil_mode or pool.divisor_override is not None:
                raise ValueError(f"{site(node, module)}: ceil_mode and divisor_override do not exist in ONNX")
            kernel, stride, padding = (list(sizes) for sizes in pool.window(space))
            average = self._emit("AveragePool", inputs, path, kernel_shape=kernel, strides=stride, pads=padding * 2,
                                 count_include_pad=int(pool.count_include_pad))  # fmt: skip
            exact = pool.count_include_pad or not any(padding)
            return self._averaged(average, inputs[0], path, kernel[0] * kernel[1]) if exact else average
        if isinstance(module, nn.MaxPool2d):
            if module.ceil_mode or module.return_indices:
                raise ValueError(f"{site(node, module)}: ceil_mode and return_indices are not supported")
            return self._emit("MaxPool", inputs, path, kernel_shape=_pair(module.kernel_size), strides=_pair(module.stride),
                              pads=_pair(module.padding) * 2, dilations=_pair(module.dilation))  # fmt: skip
        return None

    def _averaged(self, average: str, x: str, path: str, window: int) -> str:
        """Averages of levels as QDQ nodes of scale step / window; without them openvino would round to multiples of the step."""
        step, levels = self.levels.get(x, (None, 0))
        if step is None or levels * window > MOST_LEVELS:
            return average
        _, output = self._levels(average, f"{path}.average", step / window, levels * window)
        self.levels[output] = (step / window, levels * window)
        return output

    def _moved(self, node: fx.Node, module: Any, inputs: list[str], path: str) -> str | None:
        """Reshaping, slicing or zero padding; None for other operations."""
        shape = node.meta["tensor_meta"].shape
        if isinstance(module, nn.Flatten) or calls(node, RESHAPING):
            if shape[0] != 1:  # the batch of the example
                return None
            if len(shape) == 2:
                return self._emit("Flatten", inputs, path, axis=1)
            return self._emit("Reshape", [*inputs, self._constant(f"{path}.shape", [0, *shape[1:]], np.int64)], path)
        if node.target is operator.getitem and isinstance(node.args[1], tuple):
            parts: Any = node.args[1]
            if not all(isinstance(part, slice) and _known(part) for part in parts) or parts[0] != slice(None):
                return None
            axes = [axis for axis, part in enumerate(parts) if part != slice(None)]
            ends = [np.iinfo(np.int64).max if parts[axis].stop is None else parts[axis].stop for axis in axes]
            where = {"starts": [parts[axis].start or 0 for axis in axes], "ends": ends, "axes": axes,
                     "steps": [parts[axis].step or 1 for axis in axes]}  # fmt: skip
            values = [self._constant(f"{path}.{name}", value, np.int64) for name, value in where.items()]
            return self._emit("Slice", [*inputs, *values], path)
        if node.op == "call_function" and node.target is F.pad:
            settings: Any = (*node.args[1:], *node.kwargs.values())
            widths, *rest = settings
            if any(setting not in ("constant", None, 0) for setting in rest):
                raise ValueError(f"{site(node, module)}: only padding with zeros is supported")
            pads = _begins_and_ends(widths, len(shape))
            return self._emit("Pad", [*inputs, self._constant(f"{path}.pads", pads, np.int64)], path)
        return None


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [int(n) for n in value]


def _begins_and_ends(widths: Sequence[int], axes: int | None = None) -> list[int]:
    """Padding in ONNX's order (all begins, then all ends) from torch's order (begin and end of each axis, the last axis first)."""
    zeros = [0] * ((axes or len(widths) // 2) - len(widths) // 2)
    return [*zeros, *widths[-2::-2], *zeros, *widths[::-2]]


def _known(part: slice) -> bool:
    """Whether a slice has integer ends and a positive step."""
    return all(value is None or isinstance(value, int) for value in (part.start, part.stop)) and (part.step or 1) > 0


def package(name: str) -> ModuleType:
    """The package onnx or onnxruntime; ValueError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"export=onnx needs the package {name}: pip install 'snnconv[export]'") from error
