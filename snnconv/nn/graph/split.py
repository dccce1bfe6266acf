"""Division of a network into parts: at the neurons, or between consecutive neurons."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx, nn

from snnconv.nn.graph.trace import trace


@dataclass
class Segment:
    """The layers between one neuron (or activation), at `path`, and the neurons before it.

    `layer` computes the input current of `path` from the outputs of `sources` (paths; "" is the image), and shares its weights
    with the network.  It is affine, so the mean of its outputs over time is its output for the mean of its inputs.
    """

    path: str
    sources: tuple[str, ...]
    layer: fx.GraphModule


def segments(network: nn.Module, paths: Iterable[str]) -> list[Segment]:
    """The parts of `network` that compute the inputs of the modules at `paths`, in the order of computation."""
    paths = set(paths)
    graph = trace(network, tuple({type(network.get_submodule(path)) for path in paths}))
    sites = [node for node in graph.nodes if node.op == "call_module" and node.target in paths]
    ends = {node: str(node.target) for node in sites} | {node: "" for node in graph.nodes if node.op == "placeholder"}
    return [_segment(network, graph, site, ends) for site in sites]


def _segment(network: nn.Module, graph: fx.Graph, site: fx.Node, ends: dict[fx.Node, str]) -> Segment:
    (start,) = site.all_input_nodes
    inside, waiting = set(), [start]
    while waiting:
        node = waiting.pop()
        inside.add(node)
        waiting += [] if node in ends else node.all_input_nodes
    part, copies, sources = fx.Graph(), {}, []
    for node in graph.nodes:
        if node in inside and node in ends:
            copies[node] = part.placeholder(node.name)
            sources.append(ends[node])
    for node in graph.nodes:
        if node in inside and node not in ends:
            copies[node] = part.node_copy(node, lambda source: copies[source])
    part.output(copies[start])
    return Segment(str(site.target), tuple(sources), fx.GraphModule(network, part))


def split(network: nn.Module, kind: type) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Divide `network` into two: nodes that do not depend on a module of `kind`, and the rest; both share its modules.

    rest(*first(x)) equals network(x).  Nodes that read shapes belong to the rest, whose batch may be larger.
    """
    modules = dict(network.named_modules())
    graph = trace(network, (kind,))
    rest: set[fx.Node] = set()
    both: set[fx.Node] = set()  # parameters and values that depend only on them: computed in both parts
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
        copies = {node: copied.placeholder(node.name) for node in inputs}
        for node in nodes:
            copies[node] = copied.node_copy(node, lambda source: copies[source])
            if node.op == "call_method" and node.target == "view":
                copies[node].target = "reshape"  # view fails for some memory layouts
        return copied, copies

    first, copies = part([node for node in graph.nodes if node not in rest and node.op != "placeholder"],
                         [node for node in graph.nodes if node.op == "placeholder"])  # fmt: skip
    first.output(tuple(copies[node] for node in crossing))
    second, _ = part([node for node in graph.nodes if node in rest | both], crossing)
    return fx.GraphModule(network, first), fx.GraphModule(network, second)
