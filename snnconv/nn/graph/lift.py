"""Translation of the ATen calls of an exported network to modules and functions of a `torch.fx` graph."""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from snnconv.nn.graph import aten, leaves
from snnconv.nn.graph.aten_calls import MIXES
from snnconv.nn.graph.aten_shapes import FACTORIES, RESHAPINGS, filled
from snnconv.nn.graph.batch_axis import batch_axis, keeps_order, shape
from snnconv.nn.graph.builder import Builder, Signal, path_of_call, where
from snnconv.nn.graph.calls import alias, is_mutable, operation, unchanged
from snnconv.nn.graph.recognize import activation
from snnconv.nn.graph.trace import stack_of


class Lifting(Builder):
    """Builds the graph of a network from its export in eval mode.

    The call of a module of torch stays a call of that module at its path; other calls follow the rules in `aten.RULES`.
    """

    def __init__(self, network: nn.Module, program: ExportedProgram) -> None:
        super().__init__(network, program)
        self.rows: dict[fx.Node, int] = {}  # rows per image: [P·N, …] in the export, [N·P, …] in the graph
        self.signals: list[fx.Node] = []  # the latest nodes of the export that depend on the image
        self.calls = self._module_calls()
        self.inside = {node for nodes in self.calls.values() for node in nodes}

    def run(self) -> fx.GraphModule:
        """Return the graph; ValueError naming a call that cannot be captured."""
        self._inputs()
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self._call(node)
                if isinstance(self.values.get(node), Signal) and isinstance(node.meta["val"], Tensor):
                    self.signals.append(node)
                    self.values[node].meta["batch_axis"] = batch_axis(node) or 0
            elif node.op == "output":
                (result,) = node.args[0]
                self.graph.output(self.argument(self.values[result]))
            elif node.op != "placeholder":
                raise ValueError(
                    f"{where(node)}: calls a higher-order function ({node.target}), which cannot be captured"
                )
        captured = fx.GraphModule(self.root, self.graph)
        captured.graph.eliminate_dead_code()
        return fx.GraphModule(self.root, captured.graph, class_name=type(self.network).__name__)

    def _inputs(self) -> None:
        tensors = {**self.program.state_dict, **self.program.constants}
        tensors |= {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        placeholders = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(placeholders, self.program.graph_signature.input_specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                self.values[node] = self.graph.placeholder(node.name)
                self.signals.append(node)
            else:
                self.values[node] = tensors[str(spec.target)]

    # calls of modules that stay one operation

    def _module_calls(self) -> dict[fx.Node, list[fx.Node]]:
        """Nodes of every call of a module that stays one operation, by the node of its output."""
        calls: dict[str, list[fx.Node]] = {}
        for node in self.program.graph.nodes:
            if (call := self._module_call(node)) is not None:
                calls.setdefault(call, []).append(node)
        by_output = {}
        for nodes in calls.values():
            leaving = [node for node in nodes if not set(nodes).issuperset(node.users)]
            if len(leaving) == 1 and isinstance(leaving[0].meta.get("val"), Tensor):
                by_output[leaving[0]] = nodes
        return by_output

    def _module_call(self, node: fx.Node) -> str | None:
        """Key of the call of the module around `node` that stays one operation; None if there is none."""
        for call, (path, _) in stack_of(node):
            if leaves.stays(self.network.get_submodule(path)):
                return call
        return None

    def _module_path(self, node: fx.Node) -> str:
        """Path of the module around `node` that stays one operation."""
        return next(path for _, (path, _) in stack_of(node) if leaves.stays(self.network.get_submodule(path)))

    def _call_module(self, node: fx.Node, nodes: list[fx.Node]) -> bool:
        """Replace `nodes`, the call of a module, by the module; returns False unless it is called on one signal."""
        sources = {a for n in nodes for a in n.all_input_nodes if a not in nodes and isinstance(self.values[a], Signal)}
        path = self._module_path(node)
        module = leaves.original(self.network.get_submodule(path))
        if isinstance(self.network.get_submodule(path), leaves.Opaque):
            inputs: list[Any] = [n.args[0] for n in nodes if operation(n) == "opaque"]
            if sources != set(inputs):
                return False
            self.values[node] = self.module(module, path, node, *inputs)
            return True
        if len(sources) != 1:
            return False
        (source,) = sources
        if isinstance(module, nn.Flatten | nn.Unflatten) and source in self.rows:
            return False
        if isinstance(module, nn.Flatten | nn.Unflatten) and not keeps_order(source, node):
            raise ValueError(f"{where(node)}: {MIXES}")
        if source in self.rows:
            self._require_rows(nodes[-1])
            self.rows[node] = self.rows[source]
        self.values[node] = self.module(module, path, node, source)
        if getattr(module, "inplace", False):
            self.changed(source, node)
        return True

    # single calls

    def _call(self, node: fx.Node) -> None:
        """Set the value of `node`."""
        if node in self.inside:
            if node not in self.calls or self._call_module(node, self.calls[node]):
                return
            for inner in self.calls[node]:
                self._alone(inner)
        else:
            self._alone(node)

    def _alone(self, node: fx.Node) -> None:
        """Set the value of `node`, which is not part of a module that stays one operation."""
        inputs = [self.values[source] for source in node.all_input_nodes]
        if isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool)):
            self.values[node] = self.SIZE
        elif all(isinstance(value, Tensor) for value in inputs):
            self.values[node] = self._constant(node)
        else:
            tensor = isinstance(node.meta.get("val"), Tensor)
            if tensor and operation(node) in FACTORIES and all(isinstance(size, int) for size in shape(node)):
                self.values[node] = filled(self, node, list(shape(node)))
                return
            if tensor and node.users and batch_axis(node) is None:
                raise ValueError(f"{where(node)}: {MIXES}")
            self._signal(node)
            if is_mutable(node):
                self.changed(node.args[0], node)

    def _signal(self, node: fx.Node) -> None:
        """Set the value of `node`, a call that depends on the image."""
        if isinstance(node.meta.get("val"), Tensor) and node.meta["val"].is_complex():
            raise ValueError(
                f"{where(node)}: computes with complex numbers, which cannot be converted; use real tensors"
            )
        relu = activation(node, self.values)
        self._require_rows(node)
        if relu is None:
            self.values[node] = aten.rule(node)(self, node)
        else:
            module, source = relu
            self.values[node] = self.module(module, self.path_for(node, "relu"), node, source)

    def _require_rows(self, node: fx.Node) -> None:
        """Record that the output of `node` has the order of rows of its inputs (`rows`); ValueError if it depends on the order."""
        orders = {self.rows.get(source) for source in node.all_input_nodes if self.is_signal(source)}
        if orders in ({None}, set()) or operation(node) in RESHAPINGS:
            return
        if len(orders) > 1 or operation(node) not in aten.BY_ROWS or batch_axis(node) != 0:
            raise ValueError(f"{where(node)}: {MIXES}, and a reshaping before it joins them with other dimensions; make the "
                             "batch the first dimension")  # fmt: skip
        self.rows[node] = orders.pop()  # type: ignore[assignment]

    def _constant(self, node: fx.Node) -> Any:
        """The value of `node`, which depends only on constants; an unchanged parameter stays the same object."""
        inputs = [self.values[source] for source in node.all_input_nodes]
        if is_mutable(node) and id(inputs[0]) in self.names:
            raise ValueError(f"{where(node)}: changes {self.names[id(inputs[0])]}, a tensor of the network, in the forward pass; "
                             "a converted network has no such state")  # fmt: skip
        if operation(node) in ("detach", "alias", "to") and inputs[0].dtype == node.meta["val"].dtype:
            return inputs[0]
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: self.values[source])
        with torch.no_grad():
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        self.origins[id(result)] = path_of_call(node)
        self.alive.append(result)
        return result

    def changed(self, source: Any, node: fx.Node) -> None:
        """Give `source`, which `node` changes in place, the value of `node`."""
        other = alias(source, node)
        if other is not None:
            raise ValueError(f"{where(node)}: changes in place a value that is also used elsewhere ({other.name}); write y = f(x) "
                             "and use y")  # fmt: skip
        for same in unchanged(source):
            self.values[same] = self.values[node]
