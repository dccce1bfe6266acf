"""A network in normal form as a NIR graph, and its replay step by step."""

from collections import defaultdict
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.hardware.export.nir_pulse import MEANING, with_pulse
from snnconv.hardware.export.normal_form import NormalForm
from snnconv.nn.graph.trace import path_of
from snnconv.readers.graph_model import SOFT, GraphModel
from snnconv.spiking.network import OverTime

METADATA, PULSE = "metadata", "pulse"  # where a graph states v(0)


def to_nir(form: NormalForm, example: Float[Tensor, "N *image"], v_initial: str = METADATA) -> Any:
    """The network as a nir.NIRGraph for images of the shape of `example`; nodes have the paths of modules, additions are edges.

    `v_initial` is "metadata", or "pulse" if a pulse in the input sets v(0) (`nir_pulse`).
    """
    nir, modules = package(), dict(form.model.network.named_modules())
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    terms: dict[Any, list[str]] = {}  # for each value, the nodes whose sum it is
    for node in form.graph(example[:1].float().cpu()).nodes:
        inputs = [terms[source] for source in node.all_input_nodes]
        if node.op == "call_function":  # the longer sum first: edges add from left to right, as the network does
            terms[node] = [name for part in sorted(inputs, key=len, reverse=True) for name in part]
            if len(set(terms[node])) < len(terms[node]):
                raise ValueError(f"{path_of(node)}: adds a value twice, but an edge of a NIR graph counts only once")
            continue
        name = str(node.target) if node.op == "call_module" else {"placeholder": "input", "output": "output"}[node.op]
        if name in nodes:
            raise ValueError(
                f"{name}: this name of a layer is reserved for the input or output of the graph; rename the layer"
            )
        shapes = [np.array(x.meta["tensor_meta"].shape[1:]) for x in (*node.all_input_nodes, node)]
        nodes[name] = _node(nir, form, name, modules.get(name), before=shapes[0], after=shapes[-1], op=node.op)
        edges += [(source, name) for part in inputs for source in part]
        terms[node] = [name]
    metadata: dict[str, Any] = {"input": "constant", "readout": "mean", "dt": 1.0, "normalize": int(form.unit)}
    if v_initial == PULSE:
        nodes, edges = with_pulse(nir, nodes, edges, SOFT)
        metadata["pulse"] = MEANING
    return nir.NIRGraph(nodes, edges, metadata={**metadata, "made_by": "snnconv"})


def _node(nir: Any, form: NormalForm, name: str, module: Any, *, before: np.ndarray, after: np.ndarray, op: str) -> Any:
    """The NIR node of one operation: [C, H, W] or [F] `before` it and `after` it."""
    if op == "placeholder":
        return nir.Input({"input": after})
    if op == "output":
        return nir.Output({"output": after})
    if isinstance(module, OverTime):
        neuron: Any = module.neuron
        theta, first = (torch.as_tensor(x, dtype=torch.float64) for x in (neuron.threshold, neuron.v_initial))
        theta = theta.view(-1, *[1] * (len(after) - 1)) if theta.dim() else theta
        origin = form.thresholds[name]
        metadata = {
            **SOFT,
            "v_initial": _plain(first * theta),
            "threshold": origin if isinstance(origin, float) else _plain(origin),
        }
        ones = torch.ones(*after)
        v_threshold = (theta * ones.double()).float().numpy()
        return nir.IF(r=ones.numpy(), v_threshold=v_threshold, v_reset=np.zeros_like(v_threshold), metadata=metadata)
    if isinstance(module, nn.Conv2d):
        weight, bias = (x.detach().numpy() for x in module.parameters())
        padding = _padding(name, module)
        return nir.Conv2d(_pair(before[1:]), weight, module.stride, padding, module.dilation, module.groups, bias)
    if isinstance(module, nn.Conv1d):
        weight, bias = (x.detach().numpy() for x in module.parameters())
        return nir.Conv1d(
            int(before[1]), weight, module.stride[0], _padding(name, module)[0], module.dilation[0], module.groups, bias
        )
    if isinstance(module, nn.Linear):
        return nir.Affine(*(x.detach().numpy() for x in module.parameters()))
    if isinstance(module, nn.AvgPool2d):
        return nir.AvgPool2d(*(np.array(_pair(x)) for x in (module.kernel_size, module.stride, module.padding)))
    return nir.Flatten({"input": before}, 0, -1)


def replay(
    graph: Any, images: Float[Tensor, "N *image"], timesteps: int
) -> tuple[Float[Tensor, "T N K"], dict[str, Tensor]]:
    """Output of every step, and spikes of every IF node (booleans, by name), of a NIR graph that receives `images` in every step.

    Computed step by step in float32, with the metadata of the neurons.  ValueError naming a node of an unknown kind or reset.
    """
    model = GraphModel(graph, _SoftReset)
    spikes: dict[str, list[Tensor]] = defaultdict(list)
    outputs = []
    model.reset()
    with torch.no_grad():
        for _ in range(timesteps):
            outputs.append(model(images))
            for name, fired in model.spikes.items():
                spikes[name].append(fired.bool())
    return torch.stack(outputs), {name: torch.stack(steps) for name, steps in spikes.items()}


class _SoftReset(nn.Module):
    """v ← v + x;  a spike where v ≥ θ;  v ← v − θ·spike."""

    def __init__(self, threshold: Tensor, v_initial: Tensor) -> None:
        super().__init__()
        self.threshold, self.v_initial = threshold, v_initial

    def reset(self) -> None:
        self.v = self.v_initial

    def forward(self, x: Tensor) -> Tensor:
        charged = self.v + x
        fired = (charged >= self.threshold).float()
        self.v = charged - self.threshold * fired
        return fired


def write(stream: Any, graph: Any) -> None:
    """Write `graph` as a .nir file, without v_reset if it is 0 (the default), because nir before 1.0.5 does not support it."""
    import h5py

    package().write(stream, graph)
    with h5py.File(stream, "r+") as file:
        for node in file["node"]["nodes"].values():
            if "v_reset" in node and not node["v_reset"][()].any():
                del node["v_reset"]


def _plain(values: Tensor) -> Any:
    """`values` for metadata: a number or an array."""
    return values.numpy() if values.dim() else float(values)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(int(n) for n in value)  # type: ignore[return-value]


def _padding(name: str, layer: nn.Conv1d | nn.Conv2d) -> tuple[int, ...]:
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    if layer.padding != "same":
        return tuple(int(n) for n in layer.padding)
    total = [dilation * (kernel - 1) for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(n % 2 for n in total):
        raise ValueError(
            f"{name} ({type(layer).__name__}): padding='same' of an even kernel differs between sides; pad explicitly"
        )
    return tuple(n // 2 for n in total)


def package() -> ModuleType:
    """The package nir; ValueError with the command that installs it."""
    try:
        import nir
    except ImportError as error:
        raise ValueError("export=nir needs the package nir: pip install 'snnconv[export]'") from error
    return nir
