"""Obstacles: operations that prevent conversion of a network."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from snnconv.nn.graph.kinds import NORMS, Kinds, is_activation, is_linear
from snnconv.nn.graph.sites import OPERATORS, instead_of_relu
from snnconv.nn.graph.trace import path_of, trace
from snnconv.spiking.operators.base import Encoder, Site


@dataclass(frozen=True)
class Obstacle:
    """A reason why a network cannot be converted, and the remedy."""

    reason: str
    remedy: str = ""
    path: str = ""  # of the operation; "" for the whole network
    name: str = ""  # "Conv2d", "calls relu"

    def __str__(self) -> str:
        site = f"{self.path} ({self.name}): " if self.path else ""
        return site + self.reason + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Step:
    """One operation of a captured network."""

    node: fx.Node
    path: str  # of the module, or of the module that calls the function
    name: str  # "Conv2d", "calls relu"
    module: nn.Module | None  # None: a function or a method
    after_spikes: bool  # whether its input depends on spikes
    problem: Obstacle | None  # None if it can be converted


def steps(network: nn.Module, kind: Kinds) -> list[Step]:
    """The operations of `network` in order, for conversion of activations of `kind`.

    Before the first activation the current is constant in time and any pooling is permitted; after it, only linear operations,
    operators and activations of `kind` are permitted.  ValueError if the forward pass cannot be traced.
    """
    modules = dict(network.named_modules())
    graph = trace(network, kind if isinstance(kind, tuple) else (kind,))
    nodes = [node for node in graph.nodes if node.op in ("call_module", "call_function", "call_method")]
    uses = Counter(node.target for node in nodes if node.op == "call_module")
    spiking: set[fx.Node] = set()
    operations: list[Step] = []
    for node in nodes:
        module = modules[str(node.target)] if node.op == "call_module" else None
        after_spikes = any(source in spiking for source in node.all_input_nodes)
        if after_spikes or isinstance(module, kind):
            spiking.add(node)
        called = f"calls {getattr(node.target, '__name__', node.target)}"
        path, name = path_of(node), called if module is None else type(module).__name__
        problem = _problem(node, name, module, kind, after_spikes, uses[node.target])
        obstacle = Obstacle(*problem, path=path, name=name) if problem else None
        operations.append(Step(node, path, name, module, after_spikes, obstacle))
    return operations


def obstacles(network: nn.Module, kind: Kinds) -> list[Obstacle]:
    """The obstacles to converting `network`, for activations of `kind`."""
    if not any(isinstance(module, kind) for module in network.modules()):
        others = sorted({type(m).__name__ for m in network.modules() if is_activation(m) or isinstance(m, nn.ReLU)})
        reason = f"{type(network).__name__} has no {_names(kind)}: nothing to convert"
        if not others and (computed := instead_of_relu(network)):
            return [Obstacle(f"{reason}; {computed}")]
        return [
            Obstacle(
                f"{reason}; its activations are {' and '.join(others) or 'of no known kind'}: choose a method that starts "
                "from these (docs/methods.md lists them), or another activation=…"
            )
        ]
    try:
        return list(dict.fromkeys(step.problem for step in steps(network, kind) if step.problem))
    except ValueError as error:
        return [Obstacle(str(error))]


def _problem(
    node: fx.Node, name: str, module: nn.Module | None, kind: Kinds, after_spikes: bool, uses: int
) -> tuple[str, str] | None:
    """Reason and remedy, if the operation `node` is an obstacle; else None."""
    if module is not None and isinstance(module, kind):
        return _problem_of_activation(node, module, uses)
    if isinstance(module, NORMS) and module.running_mean is None and after_spikes:
        return "uses batch statistics, which differ in every timestep", "use track_running_stats=True"
    if node.target is F.dropout and node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True):
        return "dropout is active in evaluation", "pass training=self.training, or use nn.Dropout"
    if is_linear(node, module) or isinstance(module, Site):
        return None
    if isinstance(module, OPERATORS) and not after_spikes:
        return None  # its input is constant, so it is computed once
    if isinstance(module, OPERATORS):
        if uses > 1:
            return f"used {uses} times", "an operator stores its inputs, so use a separate module for each call"
        return "no operator replaces it", "choose operators=auto"
    if "pool" in name.lower():
        as_function = "a function, not a module, so no operator replaces it", "make it a module"
        return as_function if after_spikes else None
    if module is None:
        return "a function, not a module, so it would not be converted", f"make it a {_names(kind)} module"
    if is_activation(module):
        return f"this method converts {_names(kind)}", "train with that or choose another method"
    return "cannot be converted to spikes", f"replace it by {_names(kind)} or a linear layer"


def _problem_of_activation(node: fx.Node, module: nn.Module, uses: int) -> tuple[str, str] | None:
    if uses > 1:
        return f"used {uses} times", "a neuron stores its potential, so use a separate module for each call"
    if getattr(module, "inplace", False) and len(node.all_input_nodes[0].users) > 1:
        return "changes in place a value that is also used elsewhere", "use inplace=False"
    if (parent := _overridden(module)) is not None:
        return f"its output differs from {parent}, which the neuron approximates", f"use {parent} itself"
    return None


@torch.no_grad()
def _overridden(module: nn.Module) -> str | None:
    """The activation of snnconv from which a user's class inherits, if their outputs differ; else None."""
    parent: Any = next((kind for kind in type(module).__mro__ if kind.__module__.startswith("snnconv.")), None)
    if parent is None or (parent is type(module) and not module._forward_hooks):
        return None
    like = next(module.parameters(), torch.zeros(()))
    numbers = torch.linspace(-20, 20, 401).to(like)
    was_training = module.training
    try:
        same = torch.allclose(module.eval()(numbers), parent.forward(module, numbers), 0, 0, equal_nan=True)
        return None if same else parent.__name__
    finally:
        module.train(was_training)


def _names(kind: Kinds) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(k.__name__ for k in kinds if k is not Encoder) or "signed signal"


def require_convertible(network: nn.Module, kind: Kinds) -> None:
    """Raise a ValueError that lists every obstacle, if there is one."""
    if problems := obstacles(network, kind):
        raise ValueError(f"{type(network).__name__} cannot be converted:\n  " + "\n  ".join(map(str, problems)))
