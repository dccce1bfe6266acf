"""Export of the spiking network as one float32 ONNX graph over T timesteps, for viewers and for runtimes without state.

Every timestep repeats the layers, which share their weights.  A neuron is Add → GreaterOrEqual → Cast → Mul → Sub.  The output is
the mean over time.  Spikes of neuron `a` in timestep t (from 1) are the tensor `t<t>.a`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snnconv.hardware.export.checking import images_to_compare, require_opset, require_settings
from snnconv.hardware.export.normal_form import normal_form
from snnconv.hardware.export.onnx_metadata import describe
from snnconv.hardware.export.onnx_nodes import package
from snnconv.nn.graph.trace import path_of
from snnconv.runtime import files
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime

FILE = "network_over_time.onnx"
TOLERANCE = 1e-4  # of the outputs, relative to the largest


def export(
    ann: Any,
    snn: SpikingModel,
    data: Any,
    folder: Path,
    *,
    images: int = 4,
    timesteps: int = 4,
    opset: int = 17,
    class_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write `snn` over `timesteps` steps to `folder`/network_over_time.onnx; returns facts.  `ann` is not needed.

    On the first `images` test images, the outputs of onnxruntime are compared with the network whose weights the file holds.
    ValueError, without writing a file, if they differ by more than rounding.
    """
    require_settings(timesteps=timesteps)
    shown = images_to_compare(data.test, images)
    form = normal_form(snn, shown)
    model = Unrolled(form, shown, timesteps, opset).model
    describe(model, data, class_names, method=snn.method or "", timesteps=str(timesteps))
    content = model.SerializeToString()
    expected = form.model(shown, timesteps).mean(0)
    runtime = package("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    outputs = torch.from_numpy(session.run(None, {"images": shown.numpy()})[0])
    difference = (outputs - expected).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
        raise ValueError(
            f"{FILE}: outputs differ by {difference:.3g} from the network, more than rounding; nothing was written"
        )
    files.replace(folder / FILE, content)
    return {
        "files": {FILE: len(content)},
        "images": len(shown),
        "timesteps": timesteps,
        "largest_difference": difference,
    }


class Unrolled:
    """The graph of a network in normal form, repeated for each timestep."""

    def __init__(self, form: Any, example: Tensor, timesteps: int, opset: int = 17) -> None:
        onnx = package("onnx")
        require_opset(opset, onnx.defs.onnx_opset_version())
        self.helper, self.numpy_helper = onnx.helper, onnx.numpy_helper
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.modules = dict(form.model.network.named_modules())
        self.potentials: dict[str, str] = {}
        graph = form.graph(example[:1])
        outputs = [self._timestep(graph, step) for step in range(1, timesteps + 1)]
        self._emit("Mean", outputs, "logits")
        shape = next(iter(reversed(graph.nodes))).meta["tensor_meta"].shape
        kind = onnx.TensorProto.FLOAT
        whole = self.helper.make_graph(
            self.nodes, "network_over_time", [self.helper.make_tensor_value_info("images", kind, ["N", *example.shape[1:]])],
            [self.helper.make_tensor_value_info("logits", kind, ["N", *shape[1:]])], list(self.constants.values()),
        )  # fmt: skip
        imports = [self.helper.make_opsetid("", opset)]
        self.model = self.helper.make_model(whole, opset_imports=imports, producer_name="snnconv",
                                            ir_version=self.helper.find_min_ir_version_for(imports))  # fmt: skip
        onnx.checker.check_model(self.model, full_check=True)

    def _emit(self, operation: str, inputs: list[str], name: str, **settings: Any) -> str:
        self.nodes.append(self.helper.make_node(operation, inputs, [name], name=name, **settings))
        return name

    def _constant(self, name: str, value: Any) -> str:
        if name not in self.constants:
            array = np.array(value.detach().numpy() if isinstance(value, Tensor) else value, np.float32)
            self.constants[name] = self.numpy_helper.from_array(array, name)
        return name

    def _timestep(self, graph: Any, step: int) -> str:
        """The output of one timestep."""
        names: dict[Any, str] = {}
        for node in graph.nodes:
            inputs = [names[source] for source in node.all_input_nodes]
            if node.op == "placeholder":
                names[node] = "images"
            elif node.op == "output":
                return inputs[0]
            elif node.op == "call_function":
                names[node] = self._emit("Add", inputs, f"t{step}.{node.name}")
            else:
                path = str(node.target)
                names[node] = self._module(self.modules[path], path, inputs[0], step, node.meta["tensor_meta"].shape)
        raise AssertionError(f"{path_of(node)}: the graph ends without an output")

    def _module(self, module: Any, path: str, x: str, step: int, shape: Any) -> str:
        name = f"t{step}.{path}"
        if isinstance(module, OverTime):
            return self._neuron(module.neuron, path, x, name, len(shape) - 2)
        if isinstance(module, nn.Linear):
            return self._emit("Gemm", [x, *self._weights(path, module)], name, transB=1)
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            size = len(module.kernel_size)
            padding = (0,) * size if module.padding == "valid" else module.padding
            pads = {"auto_pad": "SAME_UPPER"} if padding == "same" else {"pads": [*padding] * 2}
            return self._emit("Conv", [x, *self._weights(path, module)], name, kernel_shape=module.kernel_size,
                              strides=module.stride, dilations=module.dilation, group=module.groups, **pads)  # fmt: skip
        if isinstance(module, nn.AvgPool2d):
            sizes = (module.kernel_size, module.stride, module.padding)
            kernel, stride, border = ([n, n] if isinstance(n, int) else [*n] for n in sizes)
            return self._emit(
                "AveragePool", [x], name, kernel_shape=kernel, strides=stride, pads=border * 2, count_include_pad=1
            )
        return self._emit("Flatten", [x], name, axis=1)

    def _weights(self, path: str, layer: Any) -> list[str]:
        return [self._constant(f"{path}.weight", layer.weight), self._constant(f"{path}.bias", layer.bias)]

    def _neuron(self, neuron: Any, path: str, x: str, name: str, space: int) -> str:
        """The name of the tensor of spikes; stores the name of the potential for the next timestep."""
        theta, start = (torch.as_tensor(value, dtype=torch.float64) for value in (neuron.threshold, neuron.v_initial))
        shape = (1, -1, *[1] * space)
        threshold = self._constant(f"{path}.threshold", theta.view(shape).float() if theta.dim() else theta.float())
        initial = start * theta
        potential = self.potentials.get(path) or self._constant(
            f"{path}.v_initial", initial.view(shape).float() if initial.dim() == 1 else initial.float()
        )
        charged = self._emit("Add", [potential, x], f"{name}.charged")
        reached = self._emit("GreaterOrEqual", [charged, threshold], f"{name}.reached")
        spikes = self._emit("Cast", [reached], name, to=1)
        reset = self._emit("Mul", [spikes, threshold], f"{name}.reset")
        self.potentials[path] = self._emit("Sub", [charged, reset], f"{name}.left")
        return spikes
