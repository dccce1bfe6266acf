"""The quantized ANN as an ONNX file with QDQ nodes, run in onnxruntime beside the torch network before it is kept.

Batch norms are folded.  Each QCFS activation becomes Clip(0, θ) → QuantizeLinear → DequantizeLinear with scale θ/L, zero point 0
and uint8 integers 0 … L: round(x·L/θ), where QCFS has floor(x·L/θ + ½).  Both agree but where x·L/θ + ½ is a whole number
(QuantizeLinear rounds half to even), and where float32 rounding lies between.  With `weight_bits` weights are int8 behind a
DequantizeLinear (symmetric, one scale an output channel or a layer); biases stay float32.  ReLU and clipped ReLU become Relu and
Clip: without levels there is nothing to quantize.

onnxruntime is asked for the graph as it is written, without optimizations.  Its defaults are measured beside it, because they
round again: WeightBiasQuantization (onnxruntime 1.32) makes int8 of float weights and int32 of biases between quantized
activations.  InferenceSession(…, disabled_optimizers=["WeightBiasQuantization"]) keeps them as they are.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from snnconv.hardware.export.checking import images_to_compare
from snnconv.hardware.export.onnx_graph import Built, package
from snnconv.runtime import files

FILE = "network.onnx"
TIE = 1e-3  # levels from a tie within which rounding may decide otherwise
TOLERANCE = 1e-4  # of floats, relative to the largest of the layer
ROUNDING_AGAIN = "WeightBiasQuantization"  # an optimizer of onnxruntime that changes what is computed


def export(
    ann: nn.Module, snn: Any, data: Any, folder: Path, *, images: int = 8, weight_bits: int | None = 8,
    per_channel: bool = True, opset: int = 17,
) -> dict[str, Any]:  # fmt: skip
    """Write `ann` to `folder`/network.onnx; returns what was checked.  `snn` is not needed.

    On the first `images` test images every activation is compared with the torch network's, given the same inputs, and the logits.
    ValueError naming the layer, and no file, where they differ by more than ties explain, or where there is no such operation here.
    """
    shown = images_to_compare(data.test, images)
    made = Built(ann, shown, weight_bits, per_channel, opset)
    content = made.model.SerializeToString()
    found = _compared(content, made, shown, FILE)
    found |= _beside_floats(made, ann, shown)
    files.replace(folder / FILE, content)
    return {"files": {FILE: len(content)}, **found}


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
    made = Built(ann, images, None if bits == "float" else int(bits), settings["per_channel"] == "true", opset)
    for kind in ("initializer", "node"):
        known, own = ({part.name: part for part in getattr(m.graph, kind)} for m in (model, made.model))
        different = [name for name in {**own, **known} if own.get(name) != known.get(name)]
        if different:
            raise ValueError(f"{path}: {different[0]} differs from the network; altered, or of another one")
    return _compared(Path(path).read_bytes(), made, images, str(path))


class _Forced(fx.Interpreter):
    """The torch network in which every activation puts out what onnxruntime computed for it; `compare` sees both."""

    def __init__(
        self, made: Built, given: dict[str, np.ndarray], compare: Callable[[fx.Node, Any, Tensor, Tensor], None]
    ) -> None:
        super().__init__(fx.GraphModule(made.network, made.graph))
        self.made, self.given, self.compare = made, given, compare

    def run_node(self, n: fx.Node) -> Any:
        """Its output, or that of the file."""
        own = super().run_node(n)
        if n not in self.made.sites:
            return own
        self.compare(
            n, self.env[n.all_input_nodes[0]], own, given := torch.from_numpy(self.given[self.made.sites[n][2]])
        )
        return given


@torch.no_grad()
def _compared(content: bytes, made: Built, images: Tensor, where: str) -> dict[str, Any]:
    """What was compared and found equal but for ties; ValueError naming the layer that differs."""
    images = images.float().cpu()
    counts: Counter = Counter()
    given = _run(content, images, made, where)

    def compare(node: fx.Node, x: Tensor, own: Tensor, theirs: Tensor) -> None:
        path, integers, _ = made.sites[node]
        if integers is None:
            return _require_close(f"{where}: {path}", own, theirs)
        module = made.modules[str(node.target)]
        steps = x * module.levels / module.threshold + 0.5
        levels = torch.from_numpy(given[integers].astype(np.float32))
        _require_close(f"{where}: {path}", module.threshold * levels / module.levels, theirs)
        different = (levels - steps.floor().clamp(0, module.levels)).abs()
        tied = (steps - steps.round()).abs() < TIE
        counts["activations"] += own.numel()
        counts["ties"] += int((different > 0).sum())
        counts["exact ties"] += int(((different > 0) & (steps == steps.round())).sum())
        wrong = int(((different > 0) & ~tied).sum() + ((different > 1) & tied).sum())
        if wrong:
            raise ValueError(f"{where}: {path}: {wrong} of {own.numel()} levels differ from torch, away from ties")
        return None

    logits = torch.from_numpy(given["logits"])
    forced = _Forced(made, given, compare).run(images)
    _require_close(f"{where}: the logits", forced, logits)
    own = made.network(images)
    optimized = {name: torch.from_numpy(_run(content, images, made, where, without)["logits"])
                 for name, without in (("defaults", []), (f"without {ROUNDING_AGAIN}", [ROUNDING_AGAIN]))}  # fmt: skip
    return {
        "images": len(images),
        "compared": counts["activations"],
        "differing_levels": counts["ties"],  # all of them at ties, or an error was raised
        "of_these_exact_ties": counts["exact ties"],
        "same_activations": {"largest_difference": _difference(forced, logits)},
        "end_to_end": _beside(own, logits),
        "optimized": {name: _beside(own, theirs) for name, theirs in optimized.items()},
        "quantized_activations": sum(integers is not None for _, integers, _ in made.sites.values()),
        "plain_activations": dict(made.plain),
        "nodes": dict(Counter(node.op_type for node in made.model.graph.node)),
    }  # fmt: skip


def _beside_floats(made: Built, ann: nn.Module, images: Tensor) -> dict[str, Any]:
    """What rounding the weights has changed, in torch."""
    if made.bits is None:
        return {}
    with torch.no_grad():
        rounded, logits = made.network(images), ann.eval()(images.to(next(ann.parameters()).device)).cpu()
    return {"rounded_weights": {"bits": made.bits, **_beside(logits, rounded)}}


def _run(
    content: bytes, images: Tensor, made: Built, where: str, without: list[str] | None = None
) -> dict[str, np.ndarray]:
    """Logits and what every activation puts out, as onnxruntime computes them on the CPU from the graph as it is written.

    Given a list: the logits alone, with its default optimizations but those.
    """
    onnx, runtime = package("onnx"), package("onnxruntime")
    model, wanted = onnx.load_model_from_string(content), ["logits"]
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    if without is None:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        for _, integers, output in made.sites.values():
            for name, kind in ((integers, onnx.TensorProto.UINT8), (output, onnx.TensorProto.FLOAT)):
                if name is not None:
                    wanted.append(name)
                    model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    try:
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=without
        )
        values = session.run(wanted, {"images": images.numpy()})
    except Exception as error:  # onnxruntime has errors of its own
        raise ValueError(
            f"{where}: onnxruntime {runtime.__version__} cannot run it ({error}); try export.opset=17"
        ) from error
    return dict(zip(wanted, values, strict=True))


def _require_close(where: str, own: Tensor, theirs: Tensor) -> None:
    """ValueError unless the two differ by rounding alone."""
    most = TOLERANCE * max(own.abs().max().item(), 1.0)
    if not _difference(own, theirs) <= most:
        raise ValueError(
            f"{where} differ by {_difference(own, theirs):.3g} from the torch network, more than rounding ({most:.3g})"
        )


def _difference(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def _beside(one: Tensor, other: Tensor) -> dict[str, float]:
    """How far logits lie apart, and in how many images the prediction differs."""
    predictions = int((one.argmax(1) != other.argmax(1)).sum())
    return {"largest_difference": _difference(one, other), "differing_predictions": predictions}
