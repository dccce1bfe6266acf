"""The result of conversion for every layer, and every obstacle, before anything takes long."""

import contextlib
import copy
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx, nn
from torch.nn import functional as F

from snnconv.conversion.entrance import entered
from snnconv.conversion.method import operators_of, rehearse, takes
from snnconv.conversion.obstacles import Obstacle, Step, obstacles, steps
from snnconv.conversion.registry import fitting
from snnconv.nn.functional import SMALLEST_THRESHOLD
from snnconv.nn.graph.folding import foldable
from snnconv.nn.graph.kinds import NORMS, is_activation
from snnconv.nn.graph.trace import path_of
from snnconv.spiking.encoders.base import InputEncoder
from snnconv.spiking.operators.base import Encoder, Site
from snnconv.spiking.operators.placement import place_operators

log = logging.getLogger(__name__)
FAR = 1000  # as many times above or below the largest current, θ is out of proportion
Batch = tuple[Tensor, Any]  # images, labels


@dataclass(frozen=True)
class Layer:
    """A line of the table."""

    path: str
    name: str
    shape: tuple[int, ...] | None  # of the output for one image; None if no image got there
    parameters: int
    becomes: str


@dataclass(frozen=True)
class Check:
    """Result of a check: a network without obstacles can be converted; `warnings` do not prevent it."""

    network: str
    layers: list[Layer]
    obstacles: list[Obstacle]
    warnings: list[str]
    methods: list[str]  # that would take the network as it is, where the one chosen does not
    method: str = ""  # the one chosen, by name

    def advice(self) -> str:
        """The methods to choose instead, if there are any."""
        return f"as it is, it fits method={', '.join(self.methods)}" if self.methods else ""

    def show(self, console: Console) -> None:
        """Print the layers, the obstacles with their remedies, the warnings and the verdict."""
        table = Table()
        for column in ("layer", "kind", "output", "parameters", "what becomes of it"):
            table.add_column(column, overflow="fold", justify="right" if column == "parameters" else "left")
        for layer in self.layers:
            style = "red" if layer.becomes.startswith("obstacle") else None
            shape = "–" if layer.shape is None else "×".join(map(str, layer.shape))
            table.add_row(layer.path, layer.name, shape, f"{layer.parameters:,}", layer.becomes, style=style)
        if self.layers:
            console.print(table)
        for kind, color, texts in (("Obstacle", "red", map(str, self.obstacles)), ("Warning", "yellow", self.warnings)):
            for number, text in enumerate(texts, 1):
                console.print(f"{kind} {number}: {text}", style=color, markup=False, highlight=False, soft_wrap=True)
        verb, ending = "cannot" if self.obstacles else "can", f"; {self.advice()}" if self.advice() else ""
        verdict = f"{self.network} {verb} be converted by method={self.method}{ending}."
        console.print(verdict, markup=False, highlight=False, soft_wrap=True)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=120)
        self.show(console)
        return console.file.getvalue()  # type: ignore[attr-defined]

    def require(self) -> None:
        """ValueError that lists every obstacle, if there is one; warnings go to the log."""
        for text in self.warnings:
            log.warning("%s", text)
        if self.obstacles:
            lines = [*map(str, self.obstacles), *filter(None, [self.advice()])]
            raise ValueError("\n  ".join([f"{self.network} cannot be converted:", *lines]))


def check(
    ann: nn.Module,
    convert: Any,
    batches: Iterable[Batch],
    *,
    calibrates: bool = False,
    calibration: int | None = None,
    classes: int | None = None,
    encoder: InputEncoder | None = None,
) -> Check:
    """Check of `ann` for the method `convert`, tried on a few images of `batches`.

    Obstacles are what conversion refuses: operations that spikes do not pass (`obstacles.obstacles`), images that do not fit, a θ
    that is no positive number, and whatever else the method says in a rehearsal.  With `calibrates` an unknown θ (NaN) is none:
    calibration comes later.  `calibration` is the number of images that calibration will have, by default those of `batches` if
    they say it; too few of them for the method's rule are an obstacle.  `classes` is the number of outputs that are needed.

    Warnings are what conversion carries and nobody wants: a batch norm between spikes that no layer can take in, a θ at its
    floor, and a θ more than 1000 times above or below the largest current of its layer.  Noise will do for images: the currents
    are those of the ReLU network whose batch norms use the statistics of the batch, so they have the scale that each layer is
    made for, and no image makes up for a factor of 1000.
    """
    ann, few = copy.deepcopy(ann).eval(), [(images[:32], labels[:32]) for images, labels in islice(batches, 1)]
    declared = takes(convert)
    kinds = declared or (*{type(module) for module in ann.modules() if is_activation(module)}, nn.ReLU)
    name, refused = type(ann).__name__, []
    try:
        ann, _ = entered(ann, few, kinds)
    except ValueError as error:
        refused = [Obstacle(str(error))]
    with contextlib.suppress(ValueError):  # it cannot be followed, which is an obstacle
        ann = place_operators(ann, kinds, operators_of(convert)) if declared else ann
    found = refused or (obstacles(ann, kinds) if declared else [])  # else the rehearsal will tell
    others = fitting(ann, operators_of(convert)) if found else []
    try:
        walked, folded = steps(ann, kinds), foldable(ann)
    except ValueError:  # an obstacle, which says why
        walked, folded = [], {}
    seen = _Seen(ann, walked, kinds)
    for images, _ in few if walked else []:
        found += [] if (problem := seen.show(images, classes)) is None or refused else [problem]

    sites = {step.path: step for step in walked if isinstance(step.module, kinds) and is_activation(step.module)}
    unknown = [path for path, step in sites.items() if calibrates and _theta(step).isnan().any()]
    for path in unknown:
        sites[path].module.set_threshold(1.0)  # type: ignore[union-attr, operator]  # in its place, here
    found += [obstacle for step in sites.values() if (obstacle := _no_threshold(step))]
    known = {path: step for path, step in sites.items() if path not in unknown}
    warnings = [text for path, step in known.items() if (text := _odd_threshold(step, seen.peaks.get(path, 0.0)))]
    warnings += [text for step in walked if (text := _unfolded(step, folded) or _needless(step))]

    neurons: Mapping[str, nn.Module] = {}
    if not found:
        try:
            count = getattr(batches, "count", None)
            snn = rehearse(convert, ann, few, calibration or (count if isinstance(count, int) else None))
            neurons = snn.neurons() if snn is not None else {}
            if snn is not None and encoder is not None:
                snn.encoded(encoder, few)
        except ValueError as error:
            found.append(Obstacle(str(error)))

    def becomes(step: Step) -> str:
        numbers = [n for n, obstacle in enumerate(found, 1) if (obstacle.path, obstacle.name) == (step.path, step.name)]
        if numbers:
            return f"obstacle {numbers[0]}"
        if step.problem:
            return "obstacle 1" if declared else "left to the method"  # 1: nothing is there to convert
        if isinstance(step.module, kinds):
            neuron = f"{type(neurons[step.path]).__name__} neuron" if step.path in neurons else "neuron"
            return f"{neuron}, {_trained(step) if step.path in known else 'θ from calibration images'}"
        if isinstance(step.module, Site):
            return step.module.operator.summary()
        return f"folded into {folded[step.path]}" if step.path in folded else _carried(step)

    listed: dict[tuple[str, str], Layer] = {}
    for step in walked:
        if (step.module is not None or step.problem) and (step.path, step.name) not in listed:
            row = Layer(step.path, _name(step), seen.shapes.get(step.node), _size(step.module), becomes(step))
            listed[step.path, step.name] = row
    return Check(name, [*listed.values(), *_idle(ann, kinds, walked)], found, warnings, others)


class _Seen(fx.Interpreter):
    """Runs images through the ReLU network and records `shapes` of outputs by node, `peaks`, the largest |current|s, by path."""

    def __init__(self, ann: nn.Module, walked: Sequence[Step], kinds: tuple[type, ...]) -> None:
        super().__init__(fx.GraphModule(ann, walked[0].node.graph if walked else fx.Graph()))
        self.extra_traceback, self.kinds = False, kinds
        self.sites = {step.node: step for step in walked}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.peaks: dict[str, float] = {}

    @torch.no_grad()
    def show(self, images: Tensor, classes: int | None) -> Obstacle | None:
        """Run on `images`; the obstacle that this meets, if it meets one."""
        self.module.to(images.device)
        try:
            output = self.run(images)
        except _FailedError as failure:
            return failure.obstacle(images)
        if classes is not None and not (
            isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] >= classes
        ):
            got = "×".join(map(str, output.shape[1:])) or "one number"
            return Obstacle(
                f"{type(self.module).__name__}: gives {got} for an image, expected {classes} logits (data.num_classes)"
            )
        return None

    def run_node(self, n: fx.Node) -> Any:
        """One operation; `_FailedError` naming it if it fails."""
        try:
            output = super().run_node(n)
        except Exception as error:  # the network is the user's: anything can come out
            step = self.sites.get(n)
            raise _FailedError(path_of(n), step.name if step else str(n.target)) from error
        if isinstance(output, Tensor):
            self.shapes[n] = tuple(output.shape[1:])
        return output

    def call_module(self, target: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A module; ReLU in the place of an activation, and statistics of the batch in a batch norm."""
        module: Any = self.fetch_attr(target)
        if isinstance(module, self.kinds):
            self.peaks[target] = max(self.peaks.get(target, 0.0), args[0].abs().max().item())
            return args[0] if isinstance(module, Encoder) else args[0].clamp_min(0)
        output = super().call_module(target, args, kwargs)
        if not isinstance(module, NORMS) or output.numel() == output.shape[1]:
            return output
        return F.batch_norm(args[0], None, None, module.weight, module.bias, training=True)


class _FailedError(Exception):
    """An operation that does not take its input."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__(path)
        self.path, self.name = path, name

    def obstacle(self, images: Tensor) -> Obstacle:
        """In words."""
        shape, reason = "×".join(map(str, images.shape[1:])), str(self.__cause__).partition("\n")[0]
        remedy = "do the network and data.input_shape belong together?"
        if "dtype" in reason or "scalar type" in reason:
            remedy = "call .float() on the network, or give it images of its own type"
        return Obstacle(f"fails on images of {shape} ({reason})", remedy, self.path, self.name)


def _theta(step: Step) -> Tensor:
    site: Any = step.module
    return torch.as_tensor(site.threshold).detach().flatten()


def _trained(step: Step) -> str:
    """θ and L of an activation."""
    low, high = f"{_theta(step).min():.4g}", f"{_theta(step).max():.4g}"
    return f"θ = {low if low == high else f'{low} … {high}'}, L = {step.module.levels}"  # type: ignore[union-attr]


def _no_threshold(step: Step) -> Obstacle | None:
    """The obstacle that the θ of an activation is, None if it is none."""
    if (_theta(step).isfinite() & (_theta(step) > 0)).all():
        return None
    reason = f"{_trained(step)}, and θ has to be a positive number"
    remedy = ("train again, or start from the weights of a ReLU network (model.weights=… fit=finetune), for which "
              "calibration finds θ")  # fmt: skip
    return Obstacle(reason, remedy, step.path, step.name)


def _odd_threshold(step: Step, peak: float) -> str | None:
    """A warning about the θ of an activation whose largest current is `peak`, or None."""
    low, high = _theta(step).min().item(), _theta(step).max().item()
    site = f"{step.path} ({step.name}): {_trained(step)}"
    if 0 < low < 2 * SMALLEST_THRESHOLD:
        return f"{site}, the floor below which no θ is used: the layer emits next to nothing; train again with a smaller fit.lr"
    if high > FAR * peak > 0:
        return f"{site}, where its largest current is {peak:.2g}: it will (almost) never fire; calibrate or train again"
    if 0 < FAR * low < peak:
        return f"{site}, where its largest current is {peak:.2g}: it clips (almost) all of it; calibrate or train again"
    return None


def _unfolded(step: Step, folded: Mapping[str, str]) -> str | None:
    """A warning about a batch norm between spikes that cannot be folded, None for any other operation."""
    if not isinstance(step.module, NORMS) or step.path in folded or not step.after_spikes or step.problem:
        return None
    return (f"{step.path} ({step.name}): stays between spikes, an affine map in every step, as no layer can take it in; put it "
            "right behind a convolution or linear layer that feeds nothing else")  # fmt: skip


def _needless(step: Step) -> str | None:
    """A warning about probabilities in the place of logits, or None."""
    function = step.module.operator.function if isinstance(step.module, Site) else step.module
    last = all(user.op == "output" for user in step.node.users)
    if not last or not isinstance(function, nn.LogSoftmax | nn.Softmax):
        return None
    return (f"{step.path} ({_name(step)}): the last operation, which changes no class; leave it out, and the network has no "
            "operation in floating point here")  # fmt: skip


def _carried(step: Step) -> str:
    """Role of an operation that conversion leaves as it is."""
    if not step.after_spikes:
        return "weights, receive the image (computed once, analog)" if _size(step.module) else "computed once, analog"
    if isinstance(step.module, NORMS):
        return "stays, an affine map in every step"
    return "weights, receive spikes" if _size(step.module) else "acts on each step alone"


def _name(step: Step) -> str:
    """The kind of a layer; of the layer that an operator stands for."""
    return type(step.module.operator.function).__name__ if isinstance(step.module, Site) else step.name


def _size(module: nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0


def _idle(ann: nn.Module, kinds: tuple[type, ...], walked: Sequence[Step]) -> list[Layer]:
    """The layers that the forward pass does not call."""
    called = {step.path for step in walked}
    idle = {
        path: module
        for path, module in ann.named_modules()
        if walked and path not in called and (isinstance(module, kinds) or (_size(module) and not [*module.children()]))
    }
    return [Layer(path, type(module).__name__, None, _size(module), "never called") for path, module in idle.items()]
