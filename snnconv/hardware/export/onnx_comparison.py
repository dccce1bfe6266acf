"""An ONNX file beside the torch network: every activation and the logits, as onnxruntime computes them."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from snnconv.hardware.export.onnx_graph import Built
from snnconv.hardware.export.onnx_nodes import package

FILE = "network.onnx"
TIE = 1e-3  # distance from a tie, in levels, within which rounding may differ
TOLERANCE = 1e-4  # tolerance of floats, relative to the largest value of the layer


INT8 = (
    "QLinearConv",
    "QGemm",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
)
ROUNDING_AGAIN = "WeightBiasQuantization"  # an optimizer of onnxruntime that changes results


class _Forced(fx.Interpreter):
    """The torch network with the outputs of activations replaced by those of onnxruntime; `compare` receives both."""

    def __init__(
        self, built: Built, values: dict[str, np.ndarray], compare: Callable[[fx.Node, Any, Tensor, Tensor], None]
    ) -> None:
        super().__init__(fx.GraphModule(built.network, built.graph))
        self.sites, self.values, self.compare = built.sites, values, compare

    def run_node(self, n: fx.Node) -> Any:
        """The output of a node; for activations the output of onnxruntime."""
        output = super().run_node(n)
        if n not in self.sites:
            return output
        theirs = torch.from_numpy(self.values[self.sites[n][2]])
        self.compare(n, self.env[n.all_input_nodes[0]], output, theirs)
        return theirs


@torch.no_grad()
def compared(content: bytes, built: Built, images: Tensor, where: str) -> dict[str, Any]:
    """Compare the file with the torch network; returns counts.  ValueError naming a layer that differs by more than ties."""
    images = images.float().cpu()
    counts: Counter = Counter()
    values = _run(content, images, built, where)

    def compare(node: fx.Node, x: Tensor, output: Tensor, theirs: Tensor) -> None:
        path, integers, _ = built.sites[node]
        if integers is None:
            return _require_close(f"{where}: {path}", output, theirs)
        module = built.modules[str(node.target)]
        steps = x * module.levels / module.threshold + 0.5
        levels = torch.from_numpy(values[integers].astype(np.float32))
        _require_close(f"{where}: {path}", module.threshold * levels / module.levels, theirs)
        different = (levels - steps.floor().clamp(0, module.levels)).abs()
        tied = (steps - steps.round()).abs() < TIE
        counts["activations"] += output.numel()
        counts["ties"] += int((different > 0).sum())
        counts["exact ties"] += int(((different > 0) & (steps == steps.round())).sum())
        wrong = int(((different > 0) & ~tied).sum() + ((different > 1) & tied).sum())
        if wrong:
            raise ValueError(f"{where}: {path}: {wrong} of {output.numel()} levels differ from torch, not only at ties")
        return None

    logits = torch.from_numpy(values["logits"])
    forced = _Forced(built, values, compare).run(images)
    _require_close(f"{where}: the logits", forced, logits)
    expected = built.network(images)
    optimized = {name: torch.from_numpy(_run(content, images, built, where, without)["logits"])
                 for name, without in (("defaults", []), (f"without {ROUNDING_AGAIN}", [ROUNDING_AGAIN]))}  # fmt: skip
    return {
        "images": len(images),
        "compared": counts["activations"],
        "differing_levels": counts["ties"],  # all at ties, otherwise an error was raised
        "of_these_exact_ties": counts["exact ties"],
        "same_activations": {"largest_difference": _difference(forced, logits)},
        "end_to_end": beside(expected, logits),
        "optimized": {name: beside(expected, theirs) for name, theirs in optimized.items()},
        "quantized_activations": sum(integers is not None for _, integers, _ in built.sites.values()),
        "plain_activations": dict(built.plain),
        "nodes": dict(Counter(node.op_type for node in built.model.graph.node)),
    }  # fmt: skip


def int8_layers(content: bytes, without: Sequence[str] = ()) -> str:
    """Number of convolutions and linear layers that onnxruntime computes in int8, as "k of n".

    Its default optimizations are applied, except those in `without`.
    """
    onnx, runtime = package("onnx"), package("onnxruntime")
    with TemporaryDirectory() as folder:
        options = runtime.SessionOptions()
        options.log_severity_level, options.optimized_model_filepath = 3, str(Path(folder) / "optimized.onnx")
        runtime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
        )
        nodes = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    int8 = sum(count for kind, count in nodes.items() if kind in INT8)
    floats = sum(count for kind, count in nodes.items() if kind.removeprefix("Fused") in ("Conv", "Gemm", "MatMul"))
    return f"{int8} of {int8 + floats}"


def beside_floats(built: Built, ann: nn.Module, images: Tensor) -> dict[str, Any]:
    """The change of the logits by rounding weights and biases, in torch."""
    if built.bits is None:
        return {}
    with torch.no_grad():
        rounded, logits = built.network(images), ann.eval()(images.to(next(ann.parameters()).device)).cpu()
    layers = {"layers": built.bits.layers} if built.bits.layers else {}
    return {"rounded_weights": {"bits": built.bits.bits, **layers, **beside(logits, rounded)}}


def _run(
    content: bytes, images: Tensor, built: Built, where: str, without: list[str] | None = None
) -> dict[str, np.ndarray]:
    """Logits and outputs of every activation, computed by onnxruntime on the CPU without optimizations.

    If `without` is a list, only the logits, computed with all default optimizations except those in the list.
    """
    onnx, runtime = package("onnx"), package("onnxruntime")
    model, names = onnx.load_model_from_string(content), ["logits"]
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    if without is None:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        for _, integers, output in built.sites.values():
            for name, kind in ((integers, onnx.TensorProto.UINT8), (output, onnx.TensorProto.FLOAT)):
                if name is not None:
                    names.append(name)
                    model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    try:
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=without
        )
        values = session.run(names, {"images": images.numpy()})
    except Exception as error:  # onnxruntime raises its own types of errors
        raise ValueError(
            f"{where}: onnxruntime {runtime.__version__} cannot run the file ({error}); try export.opset=17"
        ) from error
    return dict(zip(names, values, strict=True))


def _require_close(where: str, expected: Tensor, theirs: Tensor) -> None:
    """Raise a ValueError if the two differ by more than rounding."""
    most = TOLERANCE * max(expected.abs().max().item(), 1.0)
    if not _difference(expected, theirs) <= most:
        raise ValueError(
            f"{where} differ by {_difference(expected, theirs):.3g} from the torch network, more than rounding ({most:.3g})"
        )


def _difference(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def beside(one: Tensor, other: Tensor) -> dict[str, float]:
    """The largest difference of logits, and the number of images whose prediction differs."""
    predictions = int((one.argmax(1) != other.argmax(1)).sum())
    return {"largest_difference": _difference(one, other), "differing_predictions": predictions}
