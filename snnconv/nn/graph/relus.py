"""Replacement of every ReLU of a network (module or function) by a separate module."""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.nn.graph.canonical import is_canonical
from snnconv.nn.graph.capture import capture, is_captured
from snnconv.nn.graph.equality import differ_in_training, require_equal
from snnconv.nn.graph.kinds import RELU_CALLS
from snnconv.nn.graph.leaves import is_plain_relu
from snnconv.nn.graph.names import numbered_name
from snnconv.nn.graph.rewrite import set_submodule
from snnconv.nn.graph.sites import instead_of_relu
from snnconv.nn.graph.trace import path_of, trace

log = logging.getLogger(__name__)
Make = Callable[[], nn.Module]


def replace_relus(network: nn.Module, make: Make, example: Tensor | None = None) -> nn.Module:
    """A trainable copy of `network` in which every ReLU is replaced by a separate module `make()`.

    If the forward pass calls only modules and linear functions, the copy has the structure of `network`, with new modules for
    nn.ReLU, F.relu and x.relu(); the module for a function is called "relu" in the module that calls it (layer1.0.relu,
    layer1.0.relu_2, …).  Any other network needs an `example`, a batch of inputs; it is captured (`graph.capture`), which finds
    ReLU and clipped ReLU in any form.  The module for a clipped ReLU has the largest value as `ceiling`.  Weights keep their
    names.  A warning lists the parts of a captured network that are not trained as in `network`.

    ValueError if there is no ReLU, or if the output of the copy would differ.
    """
    if is_captured(network):
        return _with_modules(copy.deepcopy(network), make)
    try:
        copied = _traced(network, make)
    except ValueError:
        if example is None:
            raise
        copied = None
    if example is None or (copied is not None and is_canonical(copied)):
        return copied  # type: ignore[return-value]
    captured = capture(network, example)
    require_equal(network, captured, example)
    if copied is not None and _is_as_good(network, captured, example):
        return copied
    _warn_of_untrained(network, captured, example)
    return _with_modules(captured, make)


def _with_modules(captured: nn.Module, make: Make) -> nn.Module:
    """A captured network, changed in place: every ReLU is a module `make()`.  ValueError if there is none."""
    sites = {path: site for path, site in captured.named_modules() if isinstance(site, nn.ReLU)}
    if not sites:
        raise ValueError(_no_relu(captured))
    for path, site in sites.items():
        set_submodule(captured, path, _in_place_of(site, make))
    return captured


def _in_place_of(site: nn.Module, make: Make) -> nn.Module:
    """The module that replaces a ReLU or clipped ReLU; ValueError if a clipped ReLU would lose its limit."""
    module: Any = make()
    ceiling = getattr(site, "ceiling", None)
    if ceiling is None:
        return module
    if isinstance(module, nn.ReLU):
        return site
    module.ceiling = ceiling
    if module.threshold > ceiling:  # where it is known
        module.set_threshold(ceiling)
    return module


def _no_relu(captured: nn.Module) -> str:
    reason = instead_of_relu(captured) or "it is linear"
    return f"{type(captured).__name__}: contains no ReLU that could be replaced; {reason}"


def _is_as_good(network: nn.Module, captured: nn.Module, example: Tensor) -> bool:
    """Whether tracing finds the same ReLUs as capture, and the outputs are the same, in training mode too."""
    relus = _traced(network, nn.ReLU)
    by_tracing, by_capture = (
        [type(m) for m in candidate.modules() if isinstance(m, nn.ReLU)] for candidate in (relus, captured)
    )
    if by_tracing != by_capture:
        return False
    try:
        require_equal(network, relus, example)
    except ValueError:
        return False
    return not differ_in_training(network, relus, example)


def _warn_of_untrained(network: nn.Module, captured: nn.Module, example: Tensor) -> None:
    """Log a warning for parameters that are constants in the captured network, and for different outputs in training mode."""
    name, trained = type(network).__name__, [p for p in captured.parameters() if p.requires_grad]
    tensors = dict(network.named_parameters())
    idle = [n for n in _used(network, example) if not any(torch.equal(tensors[n], parameter) for parameter in trained)]
    if idle:
        log.warning("%s: computes weights from %s; these parameters are not trained", name, ", ".join(idle))
    if differ_in_training(network, captured, example):
        log.warning("%s: its output differs in training mode; the copy is trained as in eval mode", name)


def _used(network: nn.Module, example: Tensor) -> Iterator[str]:
    """Names of the parameters on which the output depends; empty if operations in place prevent the gradient computation."""
    network = copy.deepcopy(network).eval().requires_grad_()
    like = next(network.parameters(), example)
    try:
        with torch.enable_grad():
            network(example[:2].to(like.device, like.dtype)).float().sum().backward()
    except RuntimeError:
        return
    yield from (name for name, parameter in network.named_parameters() if parameter.grad is not None)


# by symbolic tracing


def _traced(network: nn.Module, make: Make) -> nn.Module:
    """A copy of `network` with `make()` for nn.ReLU, F.relu and x.relu(), by symbolic tracing.

    ValueError if tracing fails, finds no ReLU, or would change the outputs.
    """
    network = copy.deepcopy(network)
    modules = dict(network.named_modules())
    graph = _trace_for_both_modes(network)
    sites = [node for node in graph.nodes if _is_relu(node, modules)]
    if not sites:
        raise ValueError(f"{type(network).__name__}: contains no ReLU that could be replaced")
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
    """The graph of `network`; ValueError if it differs between training and evaluation, which a traced graph cannot represent."""
    was_training = network.training
    graphs = [trace(network.train(mode)) for mode in (True, False)]
    network.train(was_training)
    if len({str(graph) for graph in graphs}) > 1:
        raise ValueError(f"{type(network).__name__}: the forward pass reads self.training (F.dropout, F.batch_norm, …); "
                         "use modules there (nn.Dropout, nn.BatchNorm2d, …), or give an example of the input "
                         "(calibration=…)")  # fmt: skip
    return graphs[0]


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        module = modules[str(node.target)]
        return isinstance(module, nn.ReLU) and is_plain_relu(module)
    return node.op in ("call_function", "call_method") and node.target in RELU_CALLS


def _require_replaceable(node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """ValueError if a ReLU changes a value in place that is used elsewhere, which its replacement would not do."""
    if node.op == "call_module":
        inplace = getattr(modules[str(node.target)], "inplace", False)
    else:
        name = getattr(node.target, "__name__", str(node.target))
        inplace = name.endswith("_") or node.kwargs.get("inplace", len(node.args) > 1 and node.args[1])
    if not node.users or (inplace and len(node.all_input_nodes[0].users) > 1):
        raise ValueError(f"{path_of(node)}: this ReLU changes in place a value that is also used elsewhere; "
                         "write y = relu(x) and use y")  # fmt: skip
