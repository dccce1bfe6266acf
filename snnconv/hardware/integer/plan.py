"""Integer scale of every graph node, and the layers and shortcuts that share one accumulator."""

from collections import Counter
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from snnconv.hardware.integer.groups import Group, Value
from snnconv.hardware.integer.node_kinds import kind_of, mean_over_space, moves, same, shown
from snnconv.hardware.integer.operations import LOGITS, RESOLUTION, Digitize, SumPool, Times
from snnconv.nn.graph.kinds import ADDITIONS, PASSING, WEIGHTED
from snnconv.nn.graph.names import attributes, numbered_name
from snnconv.nn.graph.pooling import average_pool
from snnconv.nn.graph.rewrite import set_submodule
from snnconv.nn.graph.trace import path_of, trace
from snnconv.spiking.network import OverTime


class Plan:
    """Analyses and rewrites the graph of `network`: `groups` in the order of computation, `values` of every node.

    `output_unit` [K] is the unit of outputs that are spikes or sums of spikes; None if they are sums of weight layers.

    Average pooling is replaced by sums, and images are digitized.  ValueError naming an operation without an integer counterpart.
    """

    def __init__(self, network: nn.Module, image: Value, example: Tensor) -> None:
        self.network, self.graph = network, trace(network, (OverTime,))
        for module in network.modules():
            if isinstance(module, OverTime):
                module.timesteps = 1  # whatever schedule ran last
        ShapeProp(fx.GraphModule(network, self.graph)).propagate(example)
        self.graph.owning_module = None  # modules are added to the network itself
        self.modules: dict[str, Any] = dict(network.named_modules())
        self.values: dict[fx.Node, Value] = {}
        self.groups: list[Group] = []
        self.made: list[fx.Node] = []
        self.gone: list[fx.Node] = []
        self.output_unit: Tensor | None = None
        uses = Counter(node.target for node in self.graph.nodes if node.op == "call_module")
        for node in list(self.graph.nodes):
            if uses[node.target] > 1 and isinstance(self._module(node), WEIGHTED):
                raise ValueError(
                    f"{node.target}: used {uses[node.target]} times, but each use would need different integers"
                )
            self.values[node] = value = self._value(node, image)
            self.values |= dict.fromkeys(self.made, value)  # whatever now stands for it
            self.made.clear()
        for node in self.gone:
            self.graph.erase_node(node)

    def weighted(self) -> list[str]:
        """Paths of the weight layers."""
        return [str(node.target) for group in self.groups for node, _ in group.layers]

    def add(self, name: str, module: nn.Module) -> str:
        """Add `module` to the network, at the top level, under an unused name, and return the name."""
        name = name.replace(".", "_").replace(" ", "_")
        free = numbered_name(name, attributes(self.network), first=1)
        set_submodule(self.network, free, module)
        self.modules[free] = module
        return free

    def before(self, node: fx.Node, operand: fx.Node, name: str, module: nn.Module) -> None:
        """`module` between `operand` and `node`."""
        with self.graph.inserting_before(node):
            node.replace_input_with(operand, self.graph.call_module(self.add(name, module), (operand,)))

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _value(self, node: fx.Node, image: Value) -> Value:
        inputs = [self.values[source] for source in node.all_input_nodes]
        module: Any = self._module(node)
        if node.op == "placeholder":
            self._replace(node, "digitize", Digitize(image.scale, image.bound))
            return image
        if node.op == "output":
            self._answer(node, inputs[0])
            return inputs[0]
        if isinstance(module, OverTime):
            self._read(node, inputs, str(node.target))
            return Value(scale=module.neuron.amplitude)
        if isinstance(module, WEIGHTED):
            if inputs[0].group is not None:
                inputs[0].group.read(str(node.target), inputs[0].rate)
            self.groups.append(Group(layers=[(node, inputs[0])], rates={str(node.target): Fraction(1)}))
            return Value(group=self.groups[-1])
        if node.target in ADDITIONS and len(inputs) == 2:
            return self._sum(node, inputs)
        if isinstance(module, PASSING) or node.target in (F.dropout, "contiguous"):
            return inputs[0]
        pooled = self._pooled(node, module, inputs)
        if pooled is not None:
            return pooled
        if node.target in ("size", getattr):
            return inputs[0]
        if inputs and inputs[0].group is None and moves(node, module):
            return self._shaped(node, module, inputs[0])
        if inputs and moves(node, module) and self._flattens_channels(node):
            return inputs[0]
        raise ValueError(f"{path_of(node)} ({kind_of(node, module)}): has no integer counterpart")

    def _read(self, node: fx.Node, inputs: list[Value], reader: str) -> None:
        if inputs[0].group is None:
            raise ValueError(f"{path_of(node)}: receives spikes or images without a weight layer before it")
        inputs[0].group.read(reader, inputs[0].rate)

    def _answer(self, node: fx.Node, value: Value) -> None:
        """The outputs are sums of a group, or integers from spikes, of which `output_unit` [K] is the unit."""
        if value.group is not None:
            value.group.read(LOGITS, value.rate)
            return
        if value.signed:
            raise ValueError(f"{path_of(node)}: receives images without a weight layer before it")
        scale = torch.as_tensor(value.scale, dtype=torch.float32).expand(self._shape(node)[1])
        self.output_unit = scale.min().expand(len(scale)) / (1 if bool((scale == scale[0]).all()) else RESOLUTION)
        if bool((scale != scale[0]).any()):
            factor = (scale / self.output_unit).round()
            self.before(node, node.all_input_nodes[0], "output_factor", Times(factor))

    def _flattens_channels(self, node: fx.Node) -> bool:
        """Whether it turns [N, C, 1, 1] into [N, C], which keeps the unit of each channel."""
        before, after = self._shape(node), node.meta.get("tensor_meta")
        return len(before) > 2 and set(before[2:]) == {1} and after is not None and tuple(after.shape) == before[:2]

    def _sum(self, node: fx.Node, inputs: list[Value]) -> Value:
        first, second = (value.group for value in inputs)
        if first is not None and second is not None:
            self._merge(node, *inputs)
            return inputs[0]
        if first is None and second is None:
            one, other = inputs
            if not same(one.scale, other.scale):
                raise ValueError(
                    f"{path_of(node)}: adds spikes of θ = {shown(one.scale)} and {shown(other.scale)} without weights"
                )
            return Value(one.scale, one.bound + other.bound, one.signed or other.signed)
        direct = 0 if first is None else 1
        group = first or second
        assert group is not None
        group.shortcuts.append((node, node.all_input_nodes[direct], inputs[direct]))
        group.rates[node] = inputs[1 - direct].rate
        return inputs[1 - direct]

    def _merge(self, node: fx.Node, one: Value, other: Value) -> None:
        """Make the group of `other` a part of the group of `one`, because sums that are added share one unit."""
        first, second, ratio = one.group, other.group, one.rate / other.rate
        assert first is not None
        assert second is not None
        if first is second:
            if ratio != 1:
                raise ValueError(f"{path_of(node)}: adds a current to its own average, whose unit is another one; put an "
                                 "activation between them")  # fmt: skip
            return
        if first.depends_on(second) or second.depends_on(first):
            raise ValueError(f"{path_of(node)}: adds a current to the output of a weight layer for the same current, so its unit "
                             "would depend on itself; put an activation between them")  # fmt: skip
        first.layers += second.layers
        first.shortcuts += second.shortcuts
        first.readers += second.readers
        first.rates |= {member: rate * ratio for member, rate in second.rates.items()}
        for value in {id(value): value for value in self.values.values()}.values():
            if value.group is second:
                value.group, value.rate = first, value.rate * ratio
        self.groups.remove(second)

    def _shaped(self, node: fx.Node, module: nn.Module | None, value: Value) -> Value:
        """`value` after elements are moved, with a new order of channels if each channel has its own scale."""
        if not isinstance(value.scale, Tensor):
            return value
        shape = self._shape(node)
        if node.target in ("view", "reshape", torch.reshape) or len(shape) != 4:
            raise ValueError(f"{path_of(node)}: reshapes spikes whose θ differs between channels; use one θ for each layer "
                             "(method.per_channel=false)")  # fmt: skip
        full = value.scale.view(1, -1, 1, 1).expand(1, *shape[1:])
        if module is not None:
            moved = module(full)
        elif node.op == "call_method":
            moved = getattr(full, str(node.target))(*node.args[1:], **node.kwargs)
        else:
            moved = node.target(full, *node.args[1:], **node.kwargs)  # type: ignore[operator]
        scale = moved.flatten(2).amax(2)[0] if moved.dim() > 2 else moved[0]  # what padding adds is 0
        return Value(scale, value.bound, value.signed)

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of its first input; () if that is no tensor."""
        meta = node.all_input_nodes[0].meta if node.all_input_nodes else {}
        return tuple(meta["tensor_meta"].shape) if "tensor_meta" in meta else ()

    def _pooled(self, node: fx.Node, module: nn.Module | None, inputs: list[Value]) -> Value | None:
        """The sums that take the place of average pooling, in units of scale / window; None for any other operation."""
        shape = self._shape(node)
        mean = mean_over_space(node, shape)
        pool = mean or (average_pool(node, module) if len(shape) == 4 else None)
        if pool is None:
            return None
        if not pool.plain:
            raise ValueError(
                f"{path_of(node)} ({kind_of(node, module)}): only plain or global average pooling becomes a sum"
            )
        kernel, stride, padding = pool.window(shape[-2:])
        whole = kernel == tuple(shape[-2:]) and not any(padding)
        name = f"{node.name if mean else path_of(node)}_sum"
        self._instead(node, name, SumPool() if whole else SumPool(kernel, stride, padding))
        window = kernel[0] * kernel[1]
        if inputs[0].group is not None:
            return Value(group=inputs[0].group, rate=inputs[0].rate / window)
        return Value(inputs[0].scale / window, inputs[0].bound * window, inputs[0].signed)

    def _instead(self, node: fx.Node, name: str, module: nn.Module) -> None:
        """`module` in the place of `node`, on its first input."""
        with self.graph.inserting_before(node):
            other = self.graph.call_module(self.add(name, module), (node.all_input_nodes[0],))
            if len(node.meta["tensor_meta"].shape) == 2:  # a mean that drops height and width
                other = self.graph.call_function(torch.flatten, (other, 1))
        other.meta = dict(node.meta)
        node.replace_all_uses_with(other)
        self.made.append(other)
        self.gone.append(node)

    def _replace(self, node: fx.Node, name: str, module: nn.Module) -> None:
        """`module` behind `node`, for all that read it."""
        users = list(node.users)
        with self.graph.inserting_after(node):
            other = self.graph.call_module(self.add(name, module), (node,))
        other.meta = dict(node.meta)
        for user in users:
            user.replace_input_with(node, other)
        self.made.append(other)
