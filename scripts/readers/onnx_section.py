"""ONNX files in onnxruntime and openvino, with their defaults and with the documented options: the quantized ANN, and the SNN."""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from readers.subjects import TIMESTEPS, Subject
from snnconv.hardware.export import onnx as exporter
from snnconv.hardware.export import onnx_unrolled
from snnconv.hardware.export.normal_form import normal_form
from snnconv.hardware.export.onnx_comparison import ROUNDING_AGAIN, int8_layers
from snnconv.hardware.export.onnx_openvino import SETTINGS, compiled
from snnconv.hardware.export.onnx_openvino import int8_layers as openvino_int8_layers
from snnconv.spiking.recording import recording

Infer = Callable[[np.ndarray], np.ndarray]
HEAD = ("network", "weights", "runtime", "differing predictions", "accuracy %", "layers in int8", "ms per image")
HEAD_SNN = ("network", "runtime", "differing spikes", "differing predictions", "accuracy %", "ms per image", "KiB")


def rows(subject: Subject) -> list[list[str]]:
    """The quantized ANN; predictions are compared with torch, for the weights in the file."""
    lines = [[subject.name, "float32", "torch", "–", subject.accuracy(_logits(subject)), "–", "–"]]
    for bits, weights in ((8, "int8"), (None, "float32")):
        with TemporaryDirectory() as folder:
            facts = exporter.export(
                subject.ann, None, subject.data, Path(folder), images=len(subject.x), weight_bits=bits
            )
            content = (Path(folder) / exporter.FILE).read_bytes()
        counted = (facts["end_to_end"], *facts["optimized"].values(), *(facts["openvino"][name] for name in SETTINGS))
        lines += [
            [subject.name, weights, name, str(compared["differing_predictions"]), *cells]
            for (name, cells), compared in zip(_measured(content, subject).items(), counted, strict=True)
        ]
    return lines


def _measured(content: bytes, subject: Subject) -> dict[str, list[str]]:
    """Accuracy, layers in int8 and time by runtime, in the order of the facts of the export."""
    runtimes: dict[str, tuple[Infer, str]] = {
        "onnxruntime, no optimizations": (_onnxruntime(content, optimize=False), "–"),
        "onnxruntime, defaults": (_onnxruntime(content), int8_layers(content)),
        f"onnxruntime, without {ROUNDING_AGAIN}": (
            _onnxruntime(content, [ROUNDING_AGAIN]),
            int8_layers(content, [ROUNDING_AGAIN]),
        ),
    }
    for name, settings in SETTINGS.items():
        network = _openvino(content, settings)
        runtimes[f"openvino, {name}"] = (partial(_first_output, network), openvino_int8_layers(network))
    timed = {name: _timed(infer, subject) for name, (infer, _) in runtimes.items()}
    return {name: [accuracy, runtimes[name][1], milliseconds] for name, (_, accuracy, milliseconds) in timed.items()}


def rows_snn(subject: Subject) -> list[list[str]]:
    """The spiking network over time; compared with the network whose weights the file holds."""
    with TemporaryDirectory() as folder:
        facts = onnx_unrolled.export(None, subject.snn, subject.data, Path(folder), images=4, timesteps=TIMESTEPS)
        content = (Path(folder) / onnx_unrolled.FILE).read_bytes()
    expected, spikes = _simulated(subject)
    runtimes: dict[str, tuple[Infer, str]] = {
        "onnxruntime, defaults": (_onnxruntime(content), _differing_spikes(content, subject.x, spikes)),
        **{
            f"openvino, {name}": (partial(_first_output, _openvino(content, settings)), "–")
            for name, settings in SETTINGS.items()
        },
    }
    size = f"{sum(facts['files'].values()) / 1024:,.0f}"
    lines = [[subject.name, "torch", "–", "–", subject.accuracy(expected), "–", "–"]]
    for name, (infer, differing) in runtimes.items():
        outputs, accuracy, seconds = _timed(infer, subject)
        wrong = str(int((outputs.argmax(1) != expected.argmax(1)).sum()))
        lines.append([subject.name, name, differing, wrong, accuracy, seconds, size])
    return lines


def _simulated(subject: Subject) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean outputs, and spikes [T, N, …] of each layer by path."""
    form = normal_form(subject.snn, subject.x[:1])
    steps: dict[str, list[Tensor]] = defaultdict(list)
    with torch.no_grad(), recording(form.model, lambda path, spikes: steps[path].append(spikes.bool().clone())):
        outputs = form.model(subject.x, TIMESTEPS).mean(0)
    return outputs, {path: torch.cat(parts) for path, parts in steps.items()}


def _differing_spikes(content: bytes, x: Tensor, spikes: dict[str, Tensor]) -> str:
    model = onnx.load_model_from_string(content)
    names = {f"t{t + 1}.{path}": trains[t] for path, trains in spikes.items() for t in range(TIMESTEPS)}
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    values = _session(model.SerializeToString()).run(list(names), {"images": x.numpy()})
    wrong = sum(
        int(((value > 0) != expected.numpy()).sum()) for value, expected in zip(values, names.values(), strict=True)
    )
    return f"{wrong} of {sum(value.size for value in values):,}"


def _logits(subject: Subject) -> Tensor:
    with torch.no_grad():
        return subject.ann(subject.x)


def _timed(infer: Infer, subject: Subject) -> tuple[Tensor, str, str]:
    """Logits of all images, their accuracy, and the median time of one image in ms."""
    outputs, seconds = [], []
    for image in subject.x:
        start = time.perf_counter()
        outputs.append(infer(image[None].numpy()))
        seconds.append(time.perf_counter() - start)
    logits = torch.from_numpy(np.concatenate(outputs))
    return logits, subject.accuracy(logits), f"{1e3 * median(seconds):.2f}"


def _session(content: bytes, without: list[str] | None = None, optimize: bool = True) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"], disabled_optimizers=without
    )


def _onnxruntime(content: bytes, without: list[str] | None = None, optimize: bool = True) -> Infer:
    session = _session(content, without, optimize)
    return lambda images: session.run(["logits"], {"images": images})[0]


def _openvino(content: bytes, settings: dict[str, Any]) -> Any:
    return compiled(content, {"INFERENCE_NUM_THREADS": 1, **settings})


def _first_output(network: Any, images: np.ndarray) -> np.ndarray:
    return network(images)[0]


def versions() -> str:
    """The versions of the runtimes."""
    return ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "openvino"))
