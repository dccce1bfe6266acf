"""Folding of batch norms and of spike amplitudes into weights.  Every function returns a copy."""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import fusion

from snnconv.nn.graph.kinds import NORMS, SHAPE_ONLY, SHAPE_ONLY_CALLS, WEIGHTED
from snnconv.nn.graph.rewrite import set_submodule
from snnconv.nn.graph.trace import trace


@torch.no_grad()
def fold_amplitudes(network: nn.Module, kind: type) -> nn.Module:
    """A copy of `network` whose neurons (modules of `kind`, with `.neuron.amplitude`) emit 1 instead of θ where possible.

    If a neuron feeds only weight layers (directly, or after pooling or reshaping), its factor is folded into their weights; this
    saves one pass, and convolutions receive binary spikes.  The factor is not folded if spikes are added; a factor for each channel
    is not folded if a layer mixes channels in another way than convolutions and flattening.
    """
    network = copy.deepcopy(network)
    for neuron, calls, modules in _feeding_weights(network, kind):
        if all(_carries(modules[str(call.target)], neuron.amplitude, call, modules) for call in calls):
            for layer in (modules[str(call.target)] for call in calls):
                layer.weight = nn.Parameter(
                    layer.weight * _by_input(layer, neuron.amplitude)
                )  # a copy for this neuron, if it was shared
            neuron.amplitude = 1.0
    return network


@torch.no_grad()
def unfold_amplitudes(network: nn.Module, kind: type) -> nn.Module:
    """A copy of `network` whose neurons emit θ again: the inverse of `fold_amplitudes`, up to rounding."""
    network = copy.deepcopy(network)
    for neuron, calls, modules in _feeding_weights(network, kind):
        if not isinstance(neuron.amplitude, torch.Tensor) and neuron.amplitude == 1:
            for layer in (modules[str(call.target)] for call in calls):
                layer.weight = nn.Parameter(layer.weight / _by_input(layer, neuron.value))
            neuron.amplitude = neuron.value
    return network


def _feeding_weights(network: nn.Module, kind: type) -> Iterator[tuple[Any, list[fx.Node], dict[str, nn.Module]]]:
    """Neurons of `network` that feed only weight layers, with the calls of these layers; and all modules by path."""
    modules = dict(network.named_modules())
    nodes = trace(network, (kind,)).nodes
    uses = Counter(node.target for node in nodes if node.op == "call_module")
    for node in nodes:
        module = modules[str(node.target)] if node.op == "call_module" else None
        neuron: Any = getattr(module, "neuron", None) if isinstance(module, kind) else None
        if neuron is not None and hasattr(neuron, "amplitude"):
            calls = _weights_fed_by(node, modules, uses)
            if calls:
                yield neuron, calls, modules


def _carries(layer: Any, amplitude: Any, node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether `amplitude`, a number or [C], can be folded into the weights of `layer`, which `node` calls."""
    if not isinstance(amplitude, torch.Tensor):
        return True
    if isinstance(layer, nn.Linear):  # flattened, channel by channel
        return layer.in_features % len(amplitude) == 0 and _is_flat(node.args[0], modules)
    return layer.groups == 1 and layer.in_channels == len(amplitude)


def _is_flat(value: Any, modules: dict[str, nn.Module]) -> bool:
    """Whether the shape of `value` is certainly [N, features]."""
    if not isinstance(value, fx.Node) or value.op == "placeholder":
        return False
    if value.op == "call_module":
        module = modules[str(value.target)]
        if isinstance(module, nn.Flatten):
            return (module.start_dim, module.end_dim) == (1, -1)
        return not isinstance(module, nn.Unflatten) and _is_flat(value.args[0], modules)
    if value.target in ("flatten", torch.flatten):
        return (*value.args[1:], *value.kwargs.values()) == (1,)
    if value.target in ("view", "reshape"):
        return bool(value.args[2:] == (-1,))
    return False


def _by_input(layer: Any, amplitude: Any) -> Any:
    """`amplitude` in a shape that scales the input channels of the weights of `layer`."""
    if not isinstance(amplitude, torch.Tensor):
        return amplitude
    amplitude = amplitude.to(layer.weight)
    if isinstance(layer, nn.Linear):
        return amplitude.repeat_interleave(layer.in_features // len(amplitude))
    return amplitude.view(1, -1, *[1] * (layer.weight.dim() - 2))


def _weights_fed_by(node: fx.Node, modules: dict[str, nn.Module], uses: Counter) -> list[fx.Node] | None:
    """Calls of weight layers that `node` feeds; None if it also feeds other operations."""
    layers: list[fx.Node] = []
    for user in node.users:
        module = modules[str(user.target)] if user.op == "call_module" else None
        if user.target in ("size", "dim") or (user.target is getattr and user.args[1] == "shape"):
            continue
        if isinstance(module, WEIGHTED) and uses[user.target] == 1:
            layers.append(user)
        elif isinstance(module, SHAPE_ONLY) or user.target in SHAPE_ONLY_CALLS:
            further = _weights_fed_by(user, modules, uses)
            if further is None:
                return None
            layers += further
        else:
            return None
    return layers


def foldable(network: nn.Module) -> dict[str, str]:
    """The batch norms of `network` that follow a convolution or linear layer used only by them, by path, with its path."""
    modules = dict(network.named_modules())
    nodes = [node for node in trace(network).nodes if node.op == "call_module"]
    uses = Counter(node.target for node in nodes)
    sources = {}
    for node in nodes:
        norm, before = modules[str(node.target)], node.args[0]
        if not isinstance(norm, NORMS) or norm.running_mean is None or before not in nodes:
            continue
        layer = modules[str(before.target)]
        if len(before.users) == uses[before.target] == uses[node.target] == 1 and isinstance(layer, WEIGHTED):
            sources[str(node.target)] = str(before.target)
    return sources


@torch.no_grad()
def fold_batchnorm(network: nn.Module) -> nn.Module:
    """A copy of `network` in eval mode whose batch norms are folded into the convolution or linear layer before them.

    w ← w·γ/σ, b ← (b − μ)·γ/σ + β, computed in float64: equal to the original up to rounding of the weights.  A batch norm is not
    folded unless it follows a layer whose output has no other use (`foldable`).
    """
    network = copy.deepcopy(network).eval()
    for norm, path in foldable(network).items():
        layer: Any = network.get_submodule(path)
        fuse: Any = fusion.fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fusion.fuse_conv_bn_eval
        folded = fuse(copy.deepcopy(layer).double(), copy.deepcopy(network.get_submodule(norm)).double())
        set_submodule(network, path, folded.to(layer.weight.dtype))
        set_submodule(network, norm, nn.Identity())
    return network
