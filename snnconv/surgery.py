"""Operations on trained networks: follow the graph, fold batch norm, replace modules.  Every function returns a copy."""

import copy
import itertools
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import fusion

# What acts on every timestep alone and is linear (or affine), so that it carries spikes as it carries activations.
LINEAR_MODULES = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ZeroPad2d, nn.Upsample,
)  # fmt: skip
LINEAR_FUNCTIONS = (
    operator.add, operator.iadd, operator.sub, operator.neg, operator.getitem, getattr, torch.add, torch.sub, torch.cat,
    torch.flatten, torch.mean, torch.reshape, F.avg_pool2d, F.adaptive_avg_pool2d, F.pad, F.dropout, F.interpolate,
)  # fmt: skip
LINEAR_METHODS = (
    "add",
    "add_",
    "sub",
    "flatten",
    "view",
    "reshape",
    "mean",
    "size",
    "permute",
    "transpose",
    "contiguous",
)
SHAPE_ONLY = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
)  # fmt: skip
SHAPE_ONLY_CALLS = (
    torch.flatten,
    torch.reshape,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    F.dropout,
    "flatten",
    "view",
    "reshape",
)
SCALING = (operator.mul, torch.mul, "mul")  # linear if the other factor is a constant
DIVISIONS = (operator.truediv, torch.div, "div")  # linear if the divisor is a constant
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
RELU_CALLS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")


def is_activation(module: nn.Module) -> bool:
    """Does `module` follow the activation protocol?  (Asks without reading `threshold`, which tracing would record.)"""
    return hasattr(module, "set_threshold") and hasattr(module, "levels")


class Operation(nn.Module):
    """A module of ours that tracing takes as one operation."""


class _Tracer(fx.Tracer):
    """Treats torch's own modules, activations and the given kinds as single operations."""

    def __init__(self, leaves: tuple[type, ...]) -> None:
        super().__init__()
        self.leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, (*self.leaves, Operation))
            or is_activation(m)
            or super().is_leaf_module(m, module_qualified_name)
        )


def trace(network: nn.Module, leaves: tuple[type, ...] = ()) -> fx.Graph:
    """The operations of `network` in order, modules of kind `leaves` as one operation each.

    ValueError if the forward pass depends on the values it computes.
    """
    try:
        return _Tracer(leaves).trace(network)
    except Exception as error:  # tracing runs the user's forward pass on proxies: anything can come out
        raise ValueError(
            f"{type(network).__name__}: the forward pass cannot be followed ({error}); write it without branches on values, "
            "and put activations in modules"
        ) from error


def path_of(node: fx.Node) -> str:
    """The path of the module that runs `node`."""
    if node.op == "call_module":
        return str(node.target)
    paths = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return next((path for path in reversed(paths) if path), "the network itself")


def _is_linear(node: fx.Node, module: nn.Module | None) -> bool:
    if node.op == "call_module":
        return isinstance(module, LINEAR_MODULES)
    if node.target in (*SCALING, *DIVISIONS):
        currents = [isinstance(a, fx.Node) and a.op != "get_attr" for a in (*node.args, *node.kwargs.values())]
        if node.target in SCALING:
            return sum(currents) <= 1
        return not any(currents[1:]) and node.kwargs.get("rounding_mode") is None
    return node.target in (LINEAR_METHODS if node.op == "call_method" else LINEAR_FUNCTIONS)


Kinds = type | tuple[type, ...]


@dataclass(frozen=True)
class Step:
    """One operation of a network on its way into spikes."""

    node: fx.Node
    path: str  # of the module, or of the one that calls the function
    name: str  # "Conv2d", "calls relu"
    module: nn.Module | None  # None: a function or a method
    after_spikes: bool  # does it receive spikes, at once or through what stands before it?
    problem: str | None  # the obstacle that it is, with a remedy


def steps(network: nn.Module, kind: Kinds) -> list[Step]:
    """The operations of `network` in order, as conversion of activations of `kind` meets them.

    Before the first activation the current is constant in time and any pooling may stand; after it, only linear operations
    and activations of `kind` are carried.  ValueError if the forward pass cannot be followed.
    """
    modules = dict(network.named_modules())
    graph = trace(network, kind if isinstance(kind, tuple) else (kind,))
    nodes = [node for node in graph.nodes if node.op in ("call_module", "call_function", "call_method")]
    uses = Counter(node.target for node in nodes if node.op == "call_module")
    spiking: set[fx.Node] = set()
    found: list[Step] = []
    for node in nodes:
        module = modules[str(node.target)] if node.op == "call_module" else None
        after_spikes = any(source in spiking for source in node.all_input_nodes)
        if after_spikes or isinstance(module, kind):
            spiking.add(node)
        called = f"calls {getattr(node.target, '__name__', node.target)}"
        path, name = path_of(node), called if module is None else type(module).__name__
        problem = _problem(node, f"{path} ({name})", module, kind, after_spikes, uses[node.target])
        found.append(Step(node, path, name, module, after_spikes, problem))
    return found


def obstacles(network: nn.Module, kind: Kinds) -> list[str]:
    """What keeps `network`, with activations of `kind`, from becoming spiking: one line each, naming the path and a remedy."""
    if not any(isinstance(module, kind) for module in network.modules()):
        others = sorted({type(m).__name__ for m in network.modules() if is_activation(m) or isinstance(m, nn.ReLU)})
        return [
            f"{type(network).__name__} has no {_names(kind)}: nothing to convert; "
            f"its activations are {' and '.join(others) or 'of no known kind'}: choose a method that starts from these "
            "(README.md lists them), or another activation=…"
        ]
    try:
        return list(dict.fromkeys(step.problem for step in steps(network, kind) if step.problem))
    except ValueError as error:
        return [str(error)]


def _problem(
    node: fx.Node, site: str, module: nn.Module | None, kind: Kinds, after_spikes: bool, uses: int
) -> str | None:
    """The obstacle that the operation at `site` is, None if it is none."""
    if isinstance(module, kind):
        if uses > 1:
            return f"{site}: used {uses} times; each site holds its own potential, so give it its own module"
        if getattr(module, "inplace", False) and len(node.all_input_nodes[0].users) > 1:
            return f"{site}: works in place on a value that is also read elsewhere; use inplace=False"
        return None
    if isinstance(module, NORMS) and module.running_mean is None and after_spikes:
        return f"{site}: normalizes by the batch it is given, which differs in every step; use track_running_stats=True"
    if _is_linear(node, module):
        return None
    if "pool" in site.rpartition("(")[2].lower():
        return f"{site}: max pooling has no spiking equivalent here; use average pooling" if after_spikes else None
    if module is None:
        return f"{site}: a function, not a module, so it would not be converted; make it a {_names(kind)} module"
    if is_activation(module):
        return f"{site}: this method converts {_names(kind)}; train with that or choose another method"
    return f"{site}: cannot be carried into spikes; replace it by {_names(kind)} or a linear layer"


def _names(kind: Kinds) -> str:
    return " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))


def require_convertible(network: nn.Module, kind: Kinds) -> None:
    """ValueError that lists every obstacle, if there is one."""
    found = obstacles(network, kind)
    if found:
        raise ValueError(f"{type(network).__name__} cannot be converted:\n  " + "\n  ".join(found))


def set_submodule(network: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` in the place `path` of `network`."""
    parent, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


def replace_modules(network: nn.Module, kind: Kinds, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy of `network` in which every `kind` is replaced by `make(module)`."""
    network = copy.deepcopy(network)
    for path in [path for path, module in network.named_modules() if isinstance(module, kind)]:
        set_submodule(network, path, make(network.get_submodule(path)))
    return network


def replace_relus(network: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """A copy of `network` in which every ReLU is a module `make()` of its own: nn.ReLU, and F.relu or x.relu() in forward.

    Where each ReLU is a module used once, only these modules change.  Otherwise the copy follows the traced graph, and a
    site gets the path of the module that calls it plus "relu": layer1.0.relu, layer1.0.relu_2, …  Weights keep their names.
    ValueError where there is no ReLU, or where following the graph would change what the network computes.
    """
    network = copy.deepcopy(network)
    modules = dict(network.named_modules())
    graph = _trace_for_both_modes(network)
    sites = [node for node in graph.nodes if _is_relu(node, modules)]
    if not sites:
        raise ValueError(f"{type(network).__name__}: calls no ReLU, so there is nothing to replace")
    for node in sites:
        _require_replaceable(node, modules)
    uses = Counter(node.target for node in sites)
    if all(node.op == "call_module" and uses[node.target] == 1 for node in sites):
        for node in sites:
            set_submodule(network, str(node.target), make())
        return network
    paths = [path_of(node) for node in sites]  # before any node changes
    taken = {path for path, module in modules.items() if not isinstance(module, nn.ReLU)}
    for node, path in zip(sites, paths, strict=True):
        if node.op != "call_module":
            path = "relu" if path == "the network itself" else f"{path}.relu"
        numbered = (path if n == 1 else f"{path}_{n}" for n in itertools.count(1))
        path = next(free for free in numbered if free not in taken)
        taken.add(path)
        set_submodule(network, path, make())
        with graph.inserting_before(node):
            site = graph.call_module(path, node.args[:1] or (node.kwargs["input"],))
        node.replace_all_uses_with(site)
        graph.erase_node(node)
    return fx.GraphModule(network, graph, class_name=type(network).__name__)


def _trace_for_both_modes(network: nn.Module) -> fx.Graph:
    """The graph of `network`; ValueError if it differs between training and evaluation, which tracing could not tell."""
    was_training = network.training
    graphs = [trace(network.train(mode)) for mode in (True, False)]
    network.train(was_training)
    if len({str(graph) for graph in graphs}) > 1:
        raise ValueError(f"{type(network).__name__}: the forward pass reads self.training (F.dropout, F.batch_norm, …); "
                         "use modules there (nn.Dropout, nn.BatchNorm2d, …)")  # fmt: skip
    return graphs[0]


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU)
    return node.op in ("call_function", "call_method") and node.target in RELU_CALLS


def _require_replaceable(node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """ValueError where a ReLU writes into a value that is read again elsewhere, which its replacement would not do."""
    if node.op == "call_module":
        inplace = getattr(modules[str(node.target)], "inplace", False)
    else:
        name = getattr(node.target, "__name__", str(node.target))
        inplace = name.endswith("_") or node.kwargs.get("inplace", len(node.args) > 1 and node.args[1])
    if not node.users or (inplace and len(node.all_input_nodes[0].users) > 1):
        raise ValueError(f"{path_of(node)}: this ReLU works in place on a value that is also read elsewhere; "
                         "write y = relu(x) and use y")  # fmt: skip


def split(network: nn.Module, kind: type) -> tuple[fx.GraphModule, fx.GraphModule]:
    """`network` as two: what does not depend on a module of `kind`, and the rest; they share its modules.

    rest(*first(x)) equals network(x).  Shapes are read in the rest, whose batch may be larger.
    """
    modules = dict(network.named_modules())
    graph = trace(network, (kind,))
    rest: set[fx.Node] = set()
    both: set[fx.Node] = (
        set()
    )  # parameters and what is computed from them alone: without a batch, so computed on either side
    for node in graph.nodes:
        module = modules[str(node.target)] if node.op == "call_module" else None
        reads_shape = node.target in ("size", "dim", getattr)
        if node.op not in ("placeholder", "output", "call_module") and both.issuperset(node.all_input_nodes):
            both.add(node)
        elif node.op == "output" or isinstance(module, kind) or reads_shape or rest.intersection(node.all_input_nodes):
            rest.add(node)
    crossing = [node for node in graph.nodes if node not in rest | both and rest.intersection(node.users)]

    def part(nodes: list[fx.Node], inputs: list[fx.Node]) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
        copied = fx.Graph()
        known = {node: copied.placeholder(node.name) for node in inputs}
        for node in nodes:
            known[node] = copied.node_copy(node, lambda source: known[source])
            if node.op == "call_method" and node.target == "view":
                known[node].target = "reshape"  # the same, in any memory layout
        return copied, known

    first, known = part([node for node in graph.nodes if node not in rest and node.op != "placeholder"],
                        [node for node in graph.nodes if node.op == "placeholder"])  # fmt: skip
    first.output(tuple(known[node] for node in crossing))
    second, _ = part([node for node in graph.nodes if node in rest | both], crossing)
    return fx.GraphModule(network, first), fx.GraphModule(network, second)


@torch.no_grad()
def fold_amplitudes(network: nn.Module, kind: type) -> nn.Module:
    """A copy of `network` whose neurons (modules of `kind`, with `.neuron.amplitude`) emit 1 instead of θ where that is free.

    Where everything that a neuron feeds is a weight layer of its own, perhaps after pooling or reshaping, the factor moves
    into the weights: one pass less, and convolutions receive binary spikes.  Where spikes meet an addition it stays; so it does,
    if it differs from channel to channel, where a layer mixes channels in another way than convolutions and flattening do.
    """
    network = copy.deepcopy(network)
    modules = dict(network.named_modules())
    nodes = trace(network, (kind,)).nodes
    uses = Counter(node.target for node in nodes if node.op == "call_module")
    for node in nodes:
        module = modules[str(node.target)] if node.op == "call_module" else None
        neuron: Any = getattr(module, "neuron", None) if isinstance(module, kind) else None
        if neuron is None or not hasattr(neuron, "amplitude"):
            continue
        fed = _weights_fed_by(node, modules, uses)
        if fed and all(_carries(modules[str(user.target)], neuron.amplitude, user, modules) for user in fed):
            for layer in (modules[str(user.target)] for user in fed):
                layer.weight = nn.Parameter(
                    layer.weight * _by_input(layer, neuron.amplitude)
                )  # its own, if it was shared
            neuron.amplitude = 1.0
    return network


def _carries(layer: Any, amplitude: Any, node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Can the weights of `layer`, which `node` calls, take over `amplitude`, a number or [C]?"""
    if not isinstance(amplitude, torch.Tensor):
        return True
    if isinstance(layer, nn.Linear):  # flattened, channel by channel
        return layer.in_features % len(amplitude) == 0 and _is_flat(node.args[0], modules)
    return layer.groups == 1 and layer.in_channels == len(amplitude)


def _is_flat(value: Any, modules: dict[str, nn.Module]) -> bool:
    """Is `value` surely [N, features]?"""
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
    """`amplitude` shaped to scale the inputs that the weights of `layer` meet."""
    if not isinstance(amplitude, torch.Tensor):
        return amplitude
    amplitude = amplitude.to(layer.weight)
    if isinstance(layer, nn.Linear):
        return amplitude.repeat_interleave(layer.in_features // len(amplitude))
    return amplitude.view(1, -1, *[1] * (layer.weight.dim() - 2))


def _weights_fed_by(node: fx.Node, modules: dict[str, nn.Module], uses: Counter) -> list[fx.Node] | None:
    """The calls of weight layers that `node` feeds; None if it also feeds anything else."""
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
    found = {}
    for node in nodes:
        norm, before = modules[str(node.target)], node.args[0]
        if not isinstance(norm, NORMS) or norm.running_mean is None or before not in nodes:
            continue
        layer = modules[str(before.target)]
        if len(before.users) == uses[before.target] == uses[node.target] == 1 and isinstance(layer, WEIGHTED):
            found[str(node.target)] = str(before.target)
    return found


@torch.no_grad()
def fold_batchnorm(network: nn.Module) -> nn.Module:
    """A copy of `network` in eval mode whose batch norms are folded into the convolution or linear layer before them.

    w ← w·γ/σ, b ← (b − μ)·γ/σ + β, computed in float64: equal to the original up to rounding of the weights.  A batch norm
    that does not follow a layer used only by it (`foldable`) stays, and keeps computing the same affine map.
    """
    network = copy.deepcopy(network).eval()
    for norm, path in foldable(network).items():
        layer: Any = network.get_submodule(path)
        fuse: Any = fusion.fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fusion.fuse_conv_bn_eval
        folded = fuse(copy.deepcopy(layer).double(), copy.deepcopy(network.get_submodule(norm)).double())
        set_submodule(network, path, folded.to(layer.weight.dtype))
        set_submodule(network, norm, nn.Identity())
    return network
