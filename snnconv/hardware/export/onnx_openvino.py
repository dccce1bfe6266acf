"""An ONNX file in openvino on the CPU, beside the torch network."""

import importlib
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnconv.hardware.export.onnx_comparison import FILE, beside
from snnconv.hardware.export.onnx_graph import Built

_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "INFERENCE_PRECISION_HINT=f32": _FLOAT32,
    "INFERENCE_PRECISION_HINT=f32, DYNAMIC_QUANTIZATION_GROUP_SIZE=0": {
        **_FLOAT32,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    },
}  # openvino rounds nothing again with the last one only


@torch.no_grad()
def beside_openvino(content: bytes, built: Built, images: Tensor) -> dict[str, Any]:
    """The logits of openvino beside those of torch, for each of SETTINGS, and its layers in int8 with the defaults."""
    expected, facts = built.network(images), {}
    for name, settings in SETTINGS.items():
        network = compiled(content, settings)
        logits = np.concatenate([network(image[None].numpy())[0] for image in images])
        facts[name] = beside(expected, torch.from_numpy(logits))
    network = compiled(content, SETTINGS["defaults"])
    precision = network.get_property("INFERENCE_PRECISION_HINT").to_string()
    return {"precision_of_floats_by_default": precision, "int8_layers": int8_layers(network), **facts}


def compiled(content: bytes, settings: dict[str, Any]) -> Any:
    """The compiled network, on the CPU."""
    openvino = importlib.import_module("openvino")
    with TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_bytes(content)
        return openvino.compile_model(openvino.Core().read_model(path), "CPU", settings)


def int8_layers(network: Any) -> str:
    """Number of convolutions and linear layers that a compiled network computes in int8, as "k of n"."""
    counts: Counter = Counter()
    for operation in network.get_runtime_model().get_ordered_ops():
        about = operation.get_rt_info()
        if about["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul"):
            counts[about["primitiveType"].astype(str).upper().endswith(("_I8", "_U8"))] += 1
    return f"{counts[True]} of {counts.total()}"
