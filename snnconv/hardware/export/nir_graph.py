"""A network in normal form as a NIR graph, and a small interpreter that runs such a graph step by step."""

from collections import defaultdict
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from snnconv.hardware.export.normal_form import NormalForm
from snnconv.nn.graph.trace import path_of
from snnconv.spiking.network import OverTime

SOFT = {"reset": "subtract", "fires": "v >= v_threshold"}  # what IF nodes say of themselves (nir.py)


def to_nir(form: NormalForm, example: Float[Tensor, "N *image"]) -> Any:
    """The network as a nir.NIRGraph for images shaped like `example`.  Nodes have the paths of modules; additions are edges."""
    nir, modules = package(), dict(form.model.network.named_modules())
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    terms: dict[Any, list[str]] = {}  # of each value: the nodes that add up to it
    for node in form.graph(example[:1].float().cpu()).nodes:
        inputs = [terms[source] for source in node.all_input_nodes]
        if node.op == "call_function":  # the longer sum first: edges add from left to right, as the network does
            terms[node] = [name for part in sorted(inputs, key=len, reverse=True) for name in part]
            if len(set(terms[node])) < len(terms[node]):
                raise ValueError(f"{path_of(node)}: adds a value twice, and edges of a NIR graph count once")
            continue
        name = str(node.target) if node.op == "call_module" else {"placeholder": "input", "output": "output"}[node.op]
        if name in nodes:
            raise ValueError(f"{name}: is the name of a layer, and of an end of the graph; rename the layer")
        shapes = [np.array(x.meta["tensor_meta"].shape[1:]) for x in (*node.all_input_nodes, node)]
        nodes[name] = _node(nir, form, name, modules.get(name), before=shapes[0], after=shapes[-1], op=node.op)
        edges += [(source, name) for part in inputs for source in part]
        terms[node] = [name]
    metadata = {"input": "constant", "readout": "mean", "dt": 1.0, "normalize": int(form.unit), "made_by": "snnconv"}
    return nir.NIRGraph(nodes, edges, metadata=metadata)


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
        if module.kernel_size[0] != module.kernel_size[1]:
            raise ValueError(
                f"{name} (Conv2d): a kernel of {module.kernel_size}; nir infers shapes of square ones only"
            )
        weight, bias = (x.detach().numpy() for x in module.parameters())
        padding = _padding(name, module)
        return nir.Conv2d(_pair(before[1:]), weight, module.stride, padding, module.dilation, module.groups, bias)
    if isinstance(module, nn.Linear):
        return nir.Affine(*(x.detach().numpy() for x in module.parameters()))
    if isinstance(module, nn.AvgPool2d):
        return nir.AvgPool2d(*(np.array(_pair(x)) for x in (module.kernel_size, module.stride, module.padding)))
    return nir.Flatten({"input": before}, 0, -1)


def replay(
    graph: Any, images: Float[Tensor, "N *image"], timesteps: int
) -> tuple[Float[Tensor, "T N K"], dict[str, Tensor]]:
    """Output of every step, and spikes of every IF node (booleans, by name), of a NIR graph that receives `images` in every step.

    Step by step in float32, by the metadata of its neurons.  ValueError naming a node that is unknown, or unknown in its reset.
    """
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, name in graph.edges:
        sources[name].append(source)
    try:
        order = list(TopologicalSorter(sources).static_order())
    except CycleError as error:
        raise ValueError(f"{' → '.join(error.args[1])}: a cycle, which needs a delay that is not known here") from error
    potentials: dict[str, Tensor] = {}
    spikes: dict[str, list[Tensor]] = defaultdict(list)
    outputs = []
    for _ in range(timesteps):
        values: dict[str, Tensor] = {}
        for name in order:
            node, kind = graph.nodes[name], type(graph.nodes[name]).__name__
            parts = [values[source] for source in sources[name]]
            x = sum(parts[1:], parts[0]) if parts else images
            if kind == "IF":
                values[name], potentials[name] = _fire(name, node, x, potentials.get(name))
                spikes[name].append(values[name].bool())
            elif kind in OPERATIONS:
                values[name] = OPERATIONS[kind](node, x)
            else:
                raise ValueError(f"{name} ({kind}): unknown here; {', '.join(OPERATIONS)} and IF are known")
        outputs.append(values[next(name for name in order if type(graph.nodes[name]).__name__ == "Output")])
    return torch.stack(outputs), {name: torch.stack(steps) for name, steps in spikes.items()}


def _fire(name: str, node: Any, current: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
    """Spikes and potential of one step."""
    metadata = node.metadata
    if (
        any(metadata.get(key) != value for key, value in SOFT.items())
        or "v_initial" not in metadata
        or (node.r != 1).any()
    ):
        raise ValueError(
            f"{name} (IF): r = 1, and metadata with {SOFT} and v_initial, make a neuron known here; this has {metadata}"
        )
    threshold = torch.from_numpy(node.v_threshold)
    if v is None:
        v = torch.zeros_like(current) + torch.as_tensor(metadata["v_initial"]).float()
    charged = v + current
    fired = (charged >= threshold).float()
    return fired, charged - threshold * fired


def _convolve(node: Any, x: Tensor) -> Tensor:
    stride, padding, dilation = (_pair(value) for value in (node.stride, node.padding, node.dilation))
    weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
    return F.conv2d(x, weight, bias, stride, padding, dilation, int(node.groups))


def _average(node: Any, x: Tensor) -> Tensor:
    return F.avg_pool2d(x, _pair(node.kernel_size), _pair(node.stride), _pair(node.padding))


def _affine(node: Any, x: Tensor) -> Tensor:
    return F.linear(x, torch.from_numpy(node.weight), torch.from_numpy(node.bias))


def _flatten(node: Any, x: Tensor) -> Tensor:
    first, last = int(node.start_dim), int(node.end_dim)  # counted without the batch
    return x.flatten(first + 1, last + 1 if last >= 0 else last)


OPERATIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "Input": lambda node, x: x,
    "Output": lambda node, x: x,
    "Conv2d": _convolve,
    "Affine": _affine,
    "AvgPool2d": _average,
    "Flatten": _flatten,
}


def _plain(values: Tensor) -> Any:
    """For metadata: a number, or an array."""
    return values.numpy() if values.dim() else float(values)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(int(n) for n in value)  # type: ignore[return-value]


def _padding(name: str, layer: nn.Conv2d) -> tuple[int, int]:
    if layer.padding == "valid":
        return 0, 0
    if layer.padding != "same":
        return _pair(layer.padding)
    total = [dilation * (kernel - 1) for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(n % 2 for n in total):
        raise ValueError(f"{name} (Conv2d): padding='same' of an even kernel differs between sides; pad explicitly")
    return total[0] // 2, total[1] // 2


def package() -> ModuleType:
    """nir; ValueError that says how to get it."""
    try:
        import nir
    except ImportError as error:
        raise ValueError("export=nir needs the package nir: pip install 'snnconv[export]'") from error
    return nir
