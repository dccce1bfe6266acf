"""Export of the quantized ANN as an ONNX file with QDQ nodes, which is compared with the torch network in onnxruntime.

Batch norms are folded.  Each QCFS activation becomes QuantizeLinear → Min(L) → DequantizeLinear with scale θ/L, zero point 0
and uint8 integers 0 … L: round(x·L/θ), whereas QCFS computes floor(x·L/θ + ½).  Both are equal except if x·L/θ + ½ is an integer
(QuantizeLinear rounds half to even), or within float32 rounding of one.  Average pooling of levels has its own QDQ nodes.  With
`weight_bits` weights are int8 followed by DequantizeLinear (symmetric, one scale per output channel or layer), and a bias behind
quantized activations is int32, in the unit of the sums of the layer.
ReLU and clipped ReLU become Relu and Clip; they have no levels and are not quantized.

The comparison runs onnxruntime without optimizations, and end to end with its default optimizations.  Two runtimes round again by
default:

- onnxruntime converts float weights between quantized activations to int8 (WeightBiasQuantization, since 1.22 also biases): with
  `weight_bits` null use InferenceSession(…, disabled_optimizers=["WeightBiasQuantization"]).
- openvino computes layers that it does not run in int8 in bfloat16 on processors that support it (the first layer, and sums of
  layers), and rounds the float inputs of a linear layer with int8 weights to int8: use compile_model(…,
  {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}).

`int8_layers` counts the convolutions and linear layers that onnxruntime computes in int8; the first layer, whose input is a float
image, is never one of them.
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from snnconv.hardware.export.checking import images_to_compare, require_settings
from snnconv.hardware.export.onnx_comparison import FILE, beside_floats, compared, int8_layers
from snnconv.hardware.export.onnx_graph import Built, settings_of
from snnconv.hardware.export.onnx_metadata import describe
from snnconv.hardware.export.onnx_nodes import package
from snnconv.hardware.export.onnx_openvino import beside_openvino
from snnconv.hardware.export.onnx_weights import AUTO
from snnconv.nn.quantization import Bits
from snnconv.runtime import files


def export(
    ann: nn.Module, snn: Any, data: Any, folder: Path, *, images: int = 8, weight_bits: Bits | None = AUTO,
    layers: Mapping[str, Bits] | None = None, per_channel: bool = True, opset: int = 17,
    class_names: Sequence[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write `ann` to `folder`/network.onnx; returns facts about the comparison.  `snn` is not needed.

    On the first `images` test images, the logits and the outputs of every activation are compared with torch, for the same inputs.
    ValueError naming the layer, without writing a file, if they differ by more than ties can cause, or if an operation is not
    supported.

    `weight_bits` "auto" keeps weights that already are integers of at most 8 bits times a scale (after training with weights=int4,
    weights.layers=…), and rounds others to 8 bits.  `layers` sets the bits of layers whose path matches a pattern.
    """
    require_settings(per_channel=per_channel)
    shown = images_to_compare(data.test, images)
    built = Built(ann, shown, weight_bits, per_channel, opset, layers)
    levels = {
        path: int(built.modules[str(node.target)].levels)
        for node, (path, integers, _) in built.sites.items()
        if integers
    }
    describe(built.model, data, class_names, method="quantized ANN", levels=json.dumps(levels))
    content = built.model.SerializeToString()
    facts = compared(content, built, shown, FILE)
    facts |= beside_floats(built, ann, shown) | {"int8_layers": int8_layers(content)}
    if importlib.util.find_spec("openvino"):
        facts["openvino"] = beside_openvino(content, built, shown)
    files.replace(folder / FILE, content)
    return {"files": {FILE: len(content)}, **facts}


def check(path: str | Path, ann: nn.Module, images: Float[Tensor, "N *image"]) -> dict[str, Any]:
    """Compare a file with the network `ann`: every node and number in it, and its results for `images`.

    ValueError naming the file and the layer that differs.
    """
    onnx = package("onnx")
    try:
        model = onnx.load_model_from_string(Path(path).read_bytes())
        settings = settings_of({entry.key: entry.value for entry in model.metadata_props})
        opset = model.opset_import[0].version
    except Exception as error:  # protobuf raises its own types of errors
        raise ValueError(f"{path}: damaged, or not written by snnconv ({error})") from error
    built = Built(ann, images, opset=opset, **settings)
    for kind in ("initializer", "node"):
        in_file, expected = ({part.name: part for part in getattr(m.graph, kind)} for m in (model, built.model))
        different = [name for name in {**expected, **in_file} if expected.get(name) != in_file.get(name)]
        if different:
            raise ValueError(
                f"{path}: {different[0]} differs from the network; the file was changed, is of another network, or was written "
                "by another version of snnconv"
            )
    return compared(Path(path).read_bytes(), built, images, str(path))
