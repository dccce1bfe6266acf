"""Exact fan-out of every neuron: the number of accumulates that one spike causes in each layer, from the graph of the network."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from snnconv.analysis.count_rules import (
    CONSTANT,
    CONVOLUTIONS,
    RULES,
    SHAPING,
    SPIKES,
    VARYING,
    carrying,
    copies_elements,
    interpolated,
    max_pooled,
    nonzero_uses,
    sum_pool,
    uses,
)
from snnconv.nn.graph.biases import One, Shift
from snnconv.nn.graph.kinds import NORMS
from snnconv.nn.graph.pooling import average_pool
from snnconv.nn.graph.trace import path_of, trace
from snnconv.spiking.network import OverTime
from snnconv.spiking.operators.base import Operator, OperatorOverTime

LOGITS = "(logits)"  # where the network ends


@dataclass(frozen=True)
class Target:
    """A weight layer, neurons, or the logits, with the number of operations for one image.

    Products with padding are not counted: if every input of a layer spikes once, the layer needs `macs` accumulates.
    """

    path: str
    macs: int = 0  # multiply-accumulates of the ANN
    constant: int = 0  # multiply-accumulates of the SNN in each step on values that are the same in all steps
    varying: int = 0  # multiply-accumulates of the SNN in each step on values that change and are not spikes
    additions: int = 0  # of the ANN: values that reach an activation without weights (shortcuts)
    neurons: int = 0
    sums: int = 0  # values that are not spikes and that an operator adds to running sums in each step
    functions: int = 0  # output values of an operator in each step, computed in floating point


FanOut = dict[str, dict[str, Tensor]]  # neurons → target → accumulates that one spike of each neuron causes there


@torch.enable_grad()
def fan_out(network: nn.Module, image_shape: Sequence[int], *, zeros: bool = True) -> tuple[list[Target], FanOut]:
    """Layers that receive spikes (`Target`) in the order of computation, and the number of weights that each neuron reaches.

    `network` has `OverTime` neurons.

    If an image has several rows in the batch (windows of attention), neurons and their fan-out are [windows, …].

    Average pooling is folded into the next layer: a spike reaches all weights that the pooled cells reach.  Interpolation, scaling
    and batch norm are folded as well.  Without `zeros`, weights that are 0 are not counted, as on hardware that skips them.
    ValueError naming an operation on spikes that cannot be counted.
    """
    walk = _Walk(network, zeros)
    image = torch.zeros(3, *image_shape, dtype=torch.float64)
    image[CONSTANT] = 1
    walk.run(image)
    reach = {source: {path: _squeezed(fan) for path, fan in fans.items()} for source, fans in walk.reach.items()}
    return [Target(path, **counts) for path, counts in walk.targets.items()], reach


class _Walk(fx.Interpreter):
    """Runs a network on counts [3, …] instead of images: the number of spikes and of values that each element depends on.

    Every neuron emits one spike.  The number of accumulates is linear in the spikes, so its gradient is the fan-out.  Methods
    accept and return [3, W, …] with W rows for an image (windows of attention, else 1); values between nodes are [3·W, …].
    """

    def __init__(self, network: nn.Module, zeros: bool) -> None:
        super().__init__(fx.GraphModule(network, trace(network, (OverTime,))))
        self.extra_traceback, self.zeros = False, zeros
        self.spikes: dict[str, Tensor] = {}
        self.targets: dict[str, Counter] = defaultdict(Counter)
        self.reach: FanOut = defaultdict(dict)

    def run_node(self, n: fx.Node) -> Any:
        """One operation."""
        self.site, self.axis = path_of(n), n.all_input_nodes[0].meta.get("batch_axis", 0) if n.all_input_nodes else 0
        sources = [source for source in n.all_input_nodes if isinstance(self.env[source], Tensor)]
        self.inputs = [self.env[source] for source in sources]
        self.axes = [source.meta.get("batch_axis", 0) for source in sources]
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if (pool := average_pool(n, module)) is not None:
            return sum_pool(self.inputs[0], pool)
        return super().run_node(n)

    def get_attr(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """A parameter carries nothing; its shape counts."""
        value = super().get_attr(target, args, kwargs)
        return torch.zeros(value.shape, dtype=torch.float64) if isinstance(value, Tensor) else value

    def call_module(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """A module, on its first argument."""
        module, x = self.fetch_attr(target), (*args, *kwargs.values())[0]
        x = x.movedim(self.axis, 0)
        if isinstance(module, OverTime):
            return _rows(self._neurons(target, _by_kind(x)))
        if isinstance(module, OperatorOverTime):
            return _rows(self._operator(target, module.operator, [_by_kind(signal) for signal in args]))
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            return _rows(self._weights(target, module, _by_kind(x))).movedim(0, self.axis)
        if isinstance(module, (*NORMS, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, One, Shift)):
            return x.movedim(0, self.axis)
        if isinstance(module, nn.Flatten | nn.ZeroPad2d) or copies_elements(getattr(module, "mode", "")):
            return super().call_module(target, args, kwargs)
        if isinstance(module, nn.Upsample):
            return interpolated(x, module)
        like = next(module.parameters(), x)
        return self._other(f"{target} ({type(module).__name__})", lambda: module(x.to(like)))

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """Run a function, or apply its rule to counts."""
        if self.inputs and target in RULES:
            return RULES[target](*args, **kwargs)
        copies = target is F.interpolate and copies_elements(kwargs.get("mode", "nearest"))
        if target in SHAPING or copies or not self.inputs:
            return super().call_function(target, args, kwargs)
        if target is F.interpolate:
            return interpolated(args[0], lambda x: F.interpolate(x, *args[1:], **kwargs))
        name = getattr(target, "__name__", str(target))
        return self._other(
            f"{self.site} (calls {name})", lambda: super(_Walk, self).call_function(target, args, kwargs)
        )

    def call_method(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """Run a method of a tensor, or apply its rule to counts."""
        if self.inputs and target in RULES:
            return RULES[target](*args, **kwargs)
        if target in SHAPING or not self.inputs:
            return super().call_method(target, args, kwargs)
        return self._other(
            f"{self.site} (calls {target})", lambda: super(_Walk, self).call_method(target, args, kwargs)
        )

    def output(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """The logits."""
        return self._neurons(LOGITS, _by_kind(args[0]))

    def _other(self, name: str, run: Callable[[], Tensor]) -> Tensor:
        """Something that is not linear: the shape of its result matters, and that no spikes come to it."""
        arriving = [x.movedim(axis, 0) for x, axis in zip(self.inputs, self.axes, strict=True) if x.any()]
        if not arriving:  # parameters
            return torch.zeros_like(run())
        if any(_by_kind(x)[[SPIKES, VARYING]].any() for x in arriving):
            raise ValueError(
                f"{name}: operations after it cannot be counted for spikes; replace it by a linear layer or average pooling"
            )
        return _rows(carrying(CONSTANT, _by_kind(run()).shape[1:]))

    def _neurons(self, path: str, x: Tensor) -> Tensor:
        """Neurons, which spikes reach past all weights here."""
        shortcuts = x[SPIKES].clamp(max=1).sum()
        self._arrive(path, x[SPIKES].sum(), additions=shortcuts, neurons=x[SPIKES].numel())
        self.spikes[path] = torch.ones(x.shape[1:], dtype=x.dtype, requires_grad=True)
        return torch.stack([self.spikes[path], *torch.zeros_like(x[1:])])

    def _operator(self, path: str, operator: Operator, signals: list[Tensor]) -> Tensor:
        """Counts for an operator: inputs of its running sums, and values that it computes from them.

        Max pooling of spikes passes on every spike here, which is an upper bound.
        """
        spikes = torch.stack([x[SPIKES].sum() for x in signals]).sum()
        analog = sum(int(x[VARYING].count_nonzero()) for x in signals)
        if operator.emits_spikes and not analog:
            self._arrive(path, spikes)
            return _by_kind(max_pooled(_rows(signals[0]), operator.function))
        like = next(operator.function.parameters(), torch.empty(0))
        with FlopCounterMode(display=False) as counter:
            output = operator.function(*[torch.zeros(x.shape[1:]).to(like) for x in signals])
        macs = counter.get_total_flops() // 2
        self._arrive(path, spikes, macs=macs, varying=macs, sums=analog, functions=output.numel())
        return carrying(VARYING, output.shape)

    def _weights(self, path: str, layer: nn.Module, x: Tensor) -> Tensor:
        """A weight layer: its result is a value everywhere."""
        values, present = x[1:].clamp(max=1), x.sum(0, keepdim=True).clamp(max=1)
        rows = torch.cat([x[:1], values, present])
        used = (uses if self.zeros else nonzero_uses)(layer, _rows(rows)).unflatten(0, (len(rows), -1))
        spikes, constant, varying, macs = used.flatten(1).sum(1)
        self._arrive(path, spikes, macs=macs, constant=constant, varying=varying)
        return carrying(VARYING if x[[SPIKES, VARYING]].any() else CONSTANT, used.shape[1:])

    def _arrive(self, path: str, spikes: Tensor, **counts: Any) -> None:
        self.targets[path].update({name: round(torch.as_tensor(count).item()) for name, count in counts.items()})
        sources = list(self.spikes.values()) if spikes.requires_grad else []
        gradients = torch.autograd.grad(spikes, sources, allow_unused=True, retain_graph=True) if sources else ()
        for source, gradient in zip(self.spikes, gradients, strict=False):
            if gradient is not None and gradient.any():
                self.reach[source][path] = self.reach[source].get(path, 0) + gradient.round()


def _by_kind(x: Tensor) -> Tensor:
    """[3·W, …] as [3, W, …]; ValueError for anything else."""
    if len(x) % 3:
        raise ValueError("the network mixes the images of a batch, or its batch axis is not known, so its operations cannot be "
                         "counted")  # fmt: skip
    return x.unflatten(0, (3, -1))


def _rows(x: Tensor) -> Tensor:
    """[3, W, …] as [3·W, …]."""
    return x.flatten(0, 1)


def _squeezed(fan: Tensor) -> Tensor:
    """[W, …], or […] where W = 1."""
    return fan[0] if len(fan) == 1 else fan
