"""A NIR graph as a PyTorch module that runs its nodes in topological order, with neurons of another tool."""

from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from typing import Any

import torch
from torch import Tensor, nn

SOFT = {"reset": "subtract", "fires": "v >= v_threshold"}  # metadata of supported neurons


class GraphModel(nn.Module):
    """Layers of PyTorch and neurons of a tool: `model(x)` computes one timestep, `model.run(x, T)` all timesteps.

    Args:
        graph: a nir.NIRGraph.
        neuron: `neuron(threshold, v_initial)` returns a module that maps a current to spikes, and has `reset()`.

    ValueError naming a node of an unsupported type, or a neuron whose metadata do not specify soft reset and v(0).
    """

    def __init__(self, graph: Any, neuron: Callable[[Tensor, Tensor], nn.Module]) -> None:
        super().__init__()
        self.sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, name in graph.edges:
            self.sources[name].append(source)
        try:
            self.order = list(TopologicalSorter(self.sources).static_order())
        except CycleError as error:
            raise ValueError(f"{' → '.join(error.args[1])}: cycles are not supported") from error
        self.pulse, self.first = "pulse" in graph.metadata, True
        self.output = next(name for name in self.order if type(graph.nodes[name]).__name__ == "Output")
        self.neurons: dict[str, nn.Module] = {}
        self.layers: dict[str, nn.Module] = {}
        for name in self.order:
            kind = type(graph.nodes[name]).__name__
            if kind == "IF":
                self.neurons[name] = self.layers[name] = _neuron(name, graph.nodes[name], neuron)
            elif kind in LAYERS:
                self.layers[name] = LAYERS[kind](graph.nodes[name])
            else:
                raise ValueError(f"{name} ({kind}): unsupported node; supported are {', '.join(LAYERS)} and IF")
        self.modules_in_order = nn.ModuleList(self.layers[name] for name in self.order)  # names may contain dots
        self.spikes: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Set all membrane potentials to v(0)."""
        self.first = True
        for neuron in self.neurons.values():
            neuron.reset()  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Output of one timestep; `spikes` holds the spikes of every neuron by the name of its node."""
        if self.pulse:
            x, self.first = with_pulse(x, self.first), False
        values: dict[str, Tensor] = {}
        for name in self.order:
            parts = [values[source] for source in self.sources[name]]
            values[name] = self.layers[name](sum(parts[1:], parts[0]) if parts else x)
        self.spikes = {name: values[name] for name in self.neurons}
        return values[self.output]

    @torch.no_grad()
    def run(self, x: Tensor, timesteps: int) -> Tensor:
        """Outputs [T, N, K] of `timesteps` timesteps with input `x` [N, …] in each, starting from v(0)."""
        self.reset()
        return torch.stack([self(x) for _ in range(timesteps)])


def with_pulse(x: Tensor, first: bool) -> Tensor:
    """Inputs [N, C, …] with one more channel, which is 1 in the first timestep and then 0."""
    return torch.cat([x, torch.full_like(x[:, :1], float(first))], 1)


def _neuron(name: str, node: Any, neuron: Callable[[Tensor, Tensor], nn.Module]) -> nn.Module:
    metadata = node.metadata
    if (
        any(metadata.get(key) != value for key, value in SOFT.items())
        or "v_initial" not in metadata
        or (node.r != 1).any()
    ):
        raise ValueError(
            f"{name} (IF): expected r = 1 and metadata with {SOFT} and v_initial; got the metadata {metadata}"
        )
    threshold = torch.from_numpy(node.v_threshold)
    if bool((threshold == threshold.flatten()[0]).all()):
        threshold = threshold.flatten()[0]
    return neuron(threshold, torch.as_tensor(metadata["v_initial"]).float())


def _convolution(node: Any) -> nn.Module:
    size = node.weight.ndim - 2
    weight = torch.from_numpy(node.weight)
    groups = int(node.groups)
    settings = [_sizes(value, size) for value in (node.stride, node.padding, node.dilation)]
    kind: Any = nn.Conv1d if size == 1 else nn.Conv2d
    layer = kind(weight.shape[1] * groups, len(weight), tuple(weight.shape[2:]), *settings, groups)
    return _filled(layer, node)


def _linear(node: Any) -> nn.Module:
    return _filled(nn.Linear(node.weight.shape[1], node.weight.shape[0], hasattr(node, "bias")), node)


def _filled(layer: Any, node: Any) -> nn.Module:
    layer.weight = nn.Parameter(torch.from_numpy(node.weight), requires_grad=False)
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.from_numpy(node.bias), requires_grad=False)
    return layer


def _pool(node: Any) -> nn.Module:
    return nn.AvgPool2d(*(_sizes(value, 2) for value in (node.kernel_size, node.stride, node.padding)))  # type: ignore[arg-type]


def _sizes(value: Any, count: int) -> Any:
    if isinstance(value, str):
        return value
    sizes = torch.as_tensor(value).flatten().tolist()
    return tuple(int(n) for n in (sizes * count)[:count])


LAYERS: dict[str, Callable[[Any], nn.Module]] = {
    "Input": lambda node: nn.Identity(),
    "Output": lambda node: nn.Identity(),
    "Flatten": lambda node: nn.Flatten(
        int(node.start_dim) + 1, int(node.end_dim)
    ),  # NIR counts dimensions without the batch
    "Affine": _linear,
    "Linear": _linear,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "AvgPool2d": _pool,
}
