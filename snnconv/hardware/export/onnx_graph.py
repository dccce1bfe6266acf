"""An ANN as an ONNX graph: folded batch norms, quantized activations as QDQ nodes, and optionally int8 weights."""

import copy
import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from snnconv.hardware.export.checking import require_opset
from snnconv.hardware.export.normal_values import calls, site
from snnconv.hardware.export.onnx_moves import moved
from snnconv.hardware.export.onnx_nodes import Nodes, package
from snnconv.hardware.export.onnx_pooling import pooled
from snnconv.hardware.export.onnx_weights import AUTO, Weighted, exact_bits
from snnconv.nn.activations.clipped_relu import ClippedReLU
from snnconv.nn.activations.noisy_qcfs import NoisyQCFS
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.qcfs_floor_first import QCFSFloorFirst
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.kinds import ADDITIONS, PASSING, RELU_CALLS, WEIGHTED, is_activation
from snnconv.nn.graph.names import free_name
from snnconv.nn.graph.trace import trace
from snnconv.nn.quantization import Bits, LayerBits, largest_integer

QUANTIZED = (QCFS, QCFSFloorFirst, NoisyQCFS)  # the same function in eval mode
RESERVED = ("images", "logits", "zero", "zero_uint8")  # tensors of the graph itself


class Built:
    """`model` is the ONNX model of `ann`; `network` is the equivalent torch network, with the same rounded weights.

    `sites` holds the activations by fx node: (path, name of the tensor of integers or None, name of the output tensor).
    """

    @torch.no_grad()
    def __init__(
        self, ann: nn.Module, example: Tensor, weight_bits: Bits | None = AUTO, per_channel: bool = True, opset: int = 17,
        layers: Mapping[str, Bits] | None = None,
    ) -> None:  # fmt: skip
        onnx = package("onnx")
        require_opset(opset, onnx.defs.onnx_opset_version())
        self.per_channel = per_channel
        self.network = fold_batchnorm(copy.deepcopy(ann)).float().cpu()
        self.modules: dict[str, Any] = dict(self.network.named_modules())
        self.graph = trace(self.network)
        ShapeProp(fx.GraphModule(self.network, self.graph)).propagate(example[:1].float().cpu())
        uses = Counter(str(node.target) for node in self.graph.nodes if node.op == "call_module")
        weights = {path: self.modules[path].weight for path in uses if isinstance(self.modules[path], WEIGHTED)}
        self.bits = _layer_bits(weights, weight_bits, layers, per_channel)
        self.parts = Nodes()
        self.weighted = Weighted(self.parts, self.bits, per_channel, {path for path in uses if uses[path] > 1})
        self.names: dict[fx.Node, str] = {}
        self.sites: dict[fx.Node, tuple[str, str | None, str]] = {}
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
        helper, parts = self.parts.helper, self.parts
        float32 = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
        logits = next(iter(reversed(self.graph.nodes))).meta["tensor_meta"].shape
        graph = helper.make_graph(
            parts.nodes,
            "network",
            [helper.make_tensor_value_info("images", float32, ["N", *example.shape[1:]])],
            [helper.make_tensor_value_info("logits", float32, ["N", *logits[1:]])],
            [parts.numpy_helper.from_array(value, name) for name, value in parts.constants.items()],
        )
        imports = [helper.make_opsetid("", opset)]
        version = helper.find_min_ir_version_for(imports)
        model = helper.make_model(graph, opset_imports=imports, ir_version=version, producer_name="snnconv")
        helper.set_model_props(model, self._settings())
        return model

    def _settings(self) -> dict[str, str]:
        """Metadata from which `settings_of` restores the arguments."""
        bits = "float" if self.bits is None else str(self.bits.bits)
        layers = {} if self.bits is None else {"weight_layers": json.dumps(self.bits.layers)}
        return {"weight_bits": bits, "per_channel": str(self.per_channel).lower(), **layers}

    def _value(self, node: fx.Node) -> str:
        """The name of the tensor that holds the output of `node`."""
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        inputs = [self.names[source] for source in node.all_input_nodes if source in self.names]
        if node.op == "placeholder":
            return "images"
        if node.op == "output":
            return self.parts.emit("Identity", inputs, "logits")
        path = free_name(node.name if module is None else str(node.target), {*RESERVED, *self.names.values()})
        if isinstance(module, PASSING) or calls(node, (F.dropout, "contiguous")):
            return inputs[0]
        if calls(node, RELU_CALLS) or (module is not None and (is_activation(module) or isinstance(module, nn.ReLU))):
            return self._activation(node, module, inputs[0], path)
        for make in (self.weighted, partial(pooled, self.parts), partial(moved, self.parts)):
            if (tensor := make(node, module, inputs, path)) is not None:
                return tensor
        if calls(node, ADDITIONS) and len(inputs) == 2 and not node.kwargs:
            return self.parts.emit("Add", inputs, path)
        raise ValueError(f"{site(node, module)}: export to ONNX does not support this operation")

    def _activation(self, node: fx.Node, module: Any, x: str, path: str) -> str:
        if module is None or isinstance(module, nn.ReLU):
            output, integers = self.parts.emit("Relu", [x], path), None
            self.plain["Relu"] += 1
        elif type(module) is ClippedReLU:
            bounds = [self.parts.constant("zero", 0.0), self.parts.constant(f"{path}.theta", module.threshold)]
            output, integers = self.parts.emit("Clip", [x, *bounds], f"{path}.clip"), None
            self.plain["Clip"] += 1
        elif type(module) in QUANTIZED:
            integers, output = self.parts.quantized(x, path, module.threshold / module.levels, module.levels)
        else:
            raise ValueError(f"{site(node, module)}: is neither quantized nor clipped only, or has a threshold per channel, so it "
                             "cannot be written as QDQ nodes; train with activation=qcfs, or export=onnx_over_time")  # fmt: skip
        self.sites[node] = (path, integers, output)
        return output


def settings_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `Built` from the metadata of its model.  KeyError if there are none."""
    bits = metadata["weight_bits"]
    return {
        "weight_bits": None if bits == "float" else int(bits) if bits.isdecimal() else bits,
        "per_channel": metadata["per_channel"] == "true",
        "layers": json.loads(metadata.get("weight_layers", "{}")),
    }


def _layer_bits(
    weights: Mapping[str, Tensor], bits: Bits | None, layers: Mapping[str, Bits] | None, per_channel: bool
) -> LayerBits | None:
    """Bits of every layer, None for floats; ValueError for more than 8 bits, and for patterns that match no layer."""
    if bits is None and not layers:
        return None
    if bits is None:
        raise ValueError("export.layers: needs export.weight_bits, the bits of all other layers; use 8")
    layers = layers or {}
    automatic = {
        path: each
        for path, weight in weights.items()
        if path not in layers and (each := exact_bits(weight, per_channel))
    }
    chosen = LayerBits(8, {**layers, **automatic}) if bits == AUTO else LayerBits(bits, layers)
    for name, each in (("weight_bits", chosen.bits), *((f"layers.{key}", each) for key, each in chosen.layers.items())):
        if largest_integer(each) > largest_integer(8):
            raise ValueError(
                f"export.{name}={each}: must be 2 to 8 (stored as int8){', or null for float32' * (name == 'weight_bits')}"
            )
    chosen.require_matches(weights, "export.layers")
    return chosen
