"""Biases as a second input of a network, so that image and biases can be scaled together and presented in parts."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn import functional as F

from snnconv.nn.graph.kinds import LINEAR_MODULES, NORMS, SUMS
from snnconv.nn.graph.names import free_name
from snnconv.nn.graph.rewrite import set_submodule
from snnconv.nn.graph.trace import Operation, path_of, trace


class One(Operation):
    """Ones for the samples of a batch: [N, …] → [N]."""

    def forward(self, x: Float[Tensor, "N *shape"]) -> Float[Tensor, " N"]:
        """Ones."""
        return x.new_ones(len(x))


class Shift(Operation):
    """x + one · bias: `bias` [C] along dimension `axis` of x, with one factor for each sample in `one` [N].

    Dimension `batch` of x is the batch; each sample has one row or several consecutive rows (windows of attention).
    """

    def __init__(self, bias: Tensor, axis: int, batch: int = 0) -> None:
        super().__init__()
        self.bias, self.axis, self.batch = nn.Parameter(bias.detach().clone()), axis, batch

    def forward(self, x: Float[Tensor, "*shape"], one: Float[Tensor, " N"]) -> Float[Tensor, "*shape"]:
        """The sum."""
        bias = self.bias.view(-1, *[1] * (x.dim() - 1 - self.axis % x.dim()))
        rows = one.repeat_interleave(x.shape[self.batch] // len(one))
        return x + rows.view(-1, *[1] * (x.dim() - 1 - self.batch)) * bias


def homogeneous(network: nn.Module, kind: type) -> nn.Module:
    """A copy of `network` with the same outputs, whose biases are multiplied by a 1 computed from the images (`One`).

    The part of the network after the first modules of `kind` (`split`) is then linear without a constant in its inputs, so
    scaling its inputs scales image and biases alike.  ValueError naming any other constant in this part.
    """
    network = copy.deepcopy(network)
    modules, graph = dict(network.named_modules()), trace(network, (kind,))
    image, *nodes = graph.nodes
    with graph.inserting_after(image):
        one = graph.call_module(_add(network, "one", One()), (image,))
    given: set[fx.Node] = {image}  # nodes that depend on the image
    after: set[fx.Node] = set()  # nodes of the second part of `split`
    shifts: dict[str, str | None] = {}  # path of each layer → path of its bias module
    for node in nodes:
        path, module = str(node.target), modules[str(node.target)] if node.op == "call_module" else None
        if given.intersection(node.all_input_nodes):
            given.add(node)
        if (
            isinstance(module, kind)
            or node.target in ("size", "dim", getattr)
            or after.intersection(node.all_input_nodes)
        ):
            after.add(node)
        if node in after and _adds_a_constant(node, given):
            raise ValueError(f"{path_of(node)}: adds a constant to spikes, but this method must divide constants into parts; make "
                             "it the bias of a layer, or choose another method")  # fmt: skip
        if module is not None and path not in shifts:
            shift = _take_bias(module, node.meta.get("batch_axis", 0))
            shifts[path] = None if shift is None else _add(network, f"{path}_bias", shift)
        if (shifted_by := shifts.get(path)) is not None:
            with graph.inserting_after(node):
                shifted = graph.call_module(shifted_by, (node, one))
            shifted.meta["batch_axis"] = node.meta.get("batch_axis", 0)
            node.replace_all_uses_with(shifted, delete_user_cb=lambda user, shifted=shifted: user is not shifted)
            for nodes_of_kind in (given, after):
                nodes_of_kind.update({shifted} if node in nodes_of_kind else ())
    changed = fx.GraphModule(network, graph, class_name=type(network).__name__)
    changed.meta.update(getattr(network, "meta", {}))
    return changed


def _add(network: nn.Module, path: str, module: nn.Module) -> str:
    """Add `module` to `network` at `path`, or at a free name if the path exists; returns the path."""
    taken = {path for path, _ in (*network.named_modules(), *network.named_parameters(), *network.named_buffers())}
    path = free_name(path, taken)
    set_submodule(network, path, module)
    return path


def _adds_a_constant(node: fx.Node, given: set[fx.Node]) -> bool:
    """Whether `node` adds a value that does not depend on the image."""
    if node.target is F.pad:
        return bool(node.kwargs.get("value", node.args[3] if len(node.args) > 3 else 0))
    parts: Any = node.args[0] if node.target is torch.cat else node.args[:2]
    others = [node.kwargs["other"]] if "other" in node.kwargs else []
    return node.target in (*SUMS, torch.cat) and any(
        part not in given for part in (*parts, *others, *node.all_input_nodes)
    )


def _take_bias(module: Any, batch: int) -> Shift | None:
    """Remove the bias of `module`, a layer or batch norm, and return it; None if there is none."""
    if isinstance(module, NORMS) and module.running_mean is not None:
        zeros, statistics = (
            module.running_mean.new_zeros(1, module.num_features),
            (module.running_mean, module.running_var),
        )
        constant = F.batch_norm(zeros, *statistics, module.weight, module.bias, eps=module.eps)[0]
        module.register_buffer("running_mean", zeros[0])
        module.register_parameter("bias", None)
        return Shift(constant, 1, batch)
    if not isinstance(module, LINEAR_MODULES) or getattr(module, "bias", None) is None:
        return None
    bias: Any = module.bias
    module.register_parameter("bias", None)
    return Shift(bias, -1 if isinstance(module, nn.Linear) else 1, batch)
