"""Changing trained networks: modules in the place of others, one network as two.  Every function returns a copy."""

import copy
from collections import Counter
from collections.abc import Callable

from torch import fx, nn

from snnconv.nn.graph.kinds import RELU_CALLS, Kinds
from snnconv.nn.graph.names import numbered_name
from snnconv.nn.graph.trace import path_of, trace


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
        path = numbered_name(path, taken)
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
