"""The quantized ANN as an ONNX file with QDQ nodes, compared with the torch network in onnxruntime before it is kept.

Batch norms are folded.  Each QCFS activation becomes QuantizeLinear → Min(L) → DequantizeLinear with scale θ/L, zero point 0
and uint8 integers 0 … L: round(x·L/θ), where QCFS has floor(x·L/θ + ½).  Both agree but where x·L/θ + ½ is an integer
(QuantizeLinear rounds half to even), and where float32 rounding lies between.  Average pooling of levels has QDQ nodes of its
own.  With `weight_bits` weights are int8 behind a DequantizeLinear (symmetric, one scale an output channel or a layer); biases stay
float32.  ReLU and clipped ReLU become Relu and Clip: without levels there is nothing to quantize.

onnxruntime is asked for the graph as it is written, without optimizations.  Its defaults are measured beside it, because they
round again: WeightBiasQuantization (onnxruntime 1.32) makes int8 of float weights and int32 of biases between quantized
activations.  InferenceSession(…, disabled_optimizers=["WeightBiasQuantization"]) keeps them as they are.  `int8_layers` counts the
convolutions and linear layers that onnxruntime then computes in int8; the first layer, whose input is a float image, never is.
"""

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.hardware.export.checking import images_to_compare
from snnconv.hardware.export.onnx_comparison import FILE, beside, beside_floats, compared, int8_layers, openvino_logits
from snnconv.hardware.export.onnx_graph import Built, package
from snnconv.runtime import files


def export(
    ann: nn.Module, snn: Any, data: Any, folder: Path, *, images: int = 8, weight_bits: int | None = 8,
    per_channel: bool = True, opset: int = 17,
) -> dict[str, Any]:  # fmt: skip
    """Write `ann` to `folder`/network.onnx; returns facts about the comparison.  `snn` is not needed.

    On the first `images` test images every activation is compared with the torch network's, given the same inputs, and the logits.
    ValueError naming the layer, and no file, where they differ by more than ties explain, or where there is no such operation here.
    """
    shown = images_to_compare(data.test, images)
    built = Built(ann, shown, weight_bits, per_channel, opset)
    _describe(built, data)
    content = built.model.SerializeToString()
    facts = compared(content, built, shown, FILE)
    facts |= beside_floats(built, ann, shown) | {"int8_layers": int8_layers(content)}
    if importlib.util.find_spec("openvino"):
        facts["openvino"] = beside(built.network(shown), torch.from_numpy(openvino_logits(content, shown)))
    files.replace(folder / FILE, content)
    return {"files": {FILE: len(content)}, **facts}


def check(path: str | Path, ann: nn.Module, images: Float[Tensor, "N *image"]) -> dict[str, Any]:
    """Compare a file with the network that it should hold: every node and number in it, and what it computes for `images`.

    ValueError naming the file and the layer that differs.
    """
    onnx = package("onnx")
    try:
        model = onnx.load_model_from_string(Path(path).read_bytes())
        settings = {entry.key: entry.value for entry in model.metadata_props}
        bits, opset = settings["weight_bits"], model.opset_import[0].version
    except Exception as error:  # protobuf has errors of its own
        raise ValueError(f"{path}: damaged, or not written by snnconv ({error})") from error
    built = Built(ann, images, None if bits == "float" else int(bits), settings["per_channel"] == "true", opset)
    for kind in ("initializer", "node"):
        in_file, expected = ({part.name: part for part in getattr(m.graph, kind)} for m in (model, built.model))
        different = [name for name in {**expected, **in_file} if expected.get(name) != in_file.get(name)]
        if different:
            raise ValueError(f"{path}: {different[0]} differs from the network; altered, or of another one")
    return compared(Path(path).read_bytes(), built, images, str(path))


def _describe(built: Built, data: Any) -> None:
    """Metadata: images = pixels · image_scale + image_offset, by channel, and the levels of each activation."""
    for name in ("scale", "offset"):
        values = getattr(data.test, name, None)
        if values is not None:
            entry = built.model.metadata_props.add()
            entry.key, entry.value = f"image_{name}", json.dumps(torch.as_tensor(values).flatten().tolist())
    levels = {
        path: int(built.modules[str(node.target)].levels)
        for node, (path, integers, _) in built.sites.items()
        if integers
    }
    entry = built.model.metadata_props.add()
    entry.key, entry.value = "levels", json.dumps(levels)
