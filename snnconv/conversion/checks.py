"""Check of a network before conversion: the result for every layer, and every obstacle."""

import contextlib
import copy
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from torch import Tensor, nn

from snnconv.conversion.check_findings import (
    name_of,
    needless,
    no_threshold,
    odd_threshold,
    size,
    theta,
    trained,
    unfolded,
)
from snnconv.conversion.check_result import Check, Layer
from snnconv.conversion.demands import Demand
from snnconv.conversion.entrance import entered
from snnconv.conversion.method import operators_of, rehearse, takes
from snnconv.conversion.obstacles import Obstacle, Step, obstacles, steps
from snnconv.conversion.registry import fitting
from snnconv.conversion.trial import Trial
from snnconv.nn.graph.folding import foldable
from snnconv.nn.graph.kinds import NORMS, is_activation
from snnconv.spiking.encoders.base import InputEncoder
from snnconv.spiking.operators.base import Site
from snnconv.spiking.operators.placement import place_operators
from snnconv.training.quantized_weights import Weights

log = logging.getLogger(__name__)
Batch = tuple[Tensor, Any]  # images, labels


def check(
    ann: nn.Module,
    convert: Any,
    batches: Iterable[Batch],
    *,
    calibrates: bool = False,
    calibration: int | None = None,
    classes: int | None = None,
    encoder: InputEncoder | None = None,
    weights: Weights | None = None,
    demands: Sequence[Demand] = (),
) -> Check:
    """Check of `ann` for the method `convert`, tried on a few images of `batches`.

    Obstacles prevent conversion: operations that cannot process spikes (`obstacles.obstacles`), images of a wrong shape, a θ that
    is not a positive number, and every error that the method raises in a rehearsal.  With `calibrates` an unknown θ (NaN) is not an
    obstacle, because calibration follows.  `calibration` is the number of images that calibration will have, by default
    `batches.count` if it exists; too few images for the method's rule are an obstacle.  `classes` is the number of outputs needed.
    The rehearsal uses `weights` (by default floats) and `encoder`, and `demands` are applied to its spiking network; their
    ValueErrors are obstacles.

    Warnings do not prevent conversion: a batch norm between spikes that cannot be folded into a layer, a θ at its lower limit, and
    a θ more than 1000 times above or below the largest current of its layer.  The images may be noise: the currents are those of
    the ReLU network whose batch norms use the statistics of the batch, so their scale is typical of each layer.
    """
    name = type(ann).__name__  # a copy of a graph has another
    ann, few = copy.deepcopy(ann).eval(), [(images[:32], labels[:32]) for images, labels in islice(batches, 1)]
    declared = takes(convert)
    kinds = declared or (*{type(module) for module in ann.modules() if is_activation(module)}, nn.ReLU)
    refused: list[Obstacle] = []
    try:
        ann, _ = entered(ann, few, kinds)
    except ValueError as error:
        refused = [Obstacle(str(error))]
    with contextlib.suppress(ValueError):  # it cannot be traced, which is an obstacle
        ann = place_operators(ann, kinds, operators_of(convert)) if declared else ann
    problems = refused or (obstacles(ann, kinds) if declared else [])  # else the rehearsal raises them
    others = fitting(ann, operators_of(convert)) if problems else []
    try:
        walked, folded = steps(ann, kinds), foldable(ann)
    except ValueError:  # an obstacle that `problems` already lists
        walked, folded = [], {}
    trial = Trial(ann, walked, kinds)
    for images, _ in few if walked else []:
        problems += [] if (problem := trial.show(images, classes)) is None or refused else [problem]

    sites = {step.path: step for step in walked if isinstance(step.module, kinds) and is_activation(step.module)}
    unknown = [path for path, step in sites.items() if calibrates and theta(step).isnan().any()]
    for path in unknown:
        sites[path].module.set_threshold(1.0)  # type: ignore[union-attr, operator]  # a placeholder in this copy
    problems += [obstacle for step in sites.values() if (obstacle := no_threshold(step))]
    with_theta = {path: step for path, step in sites.items() if path not in unknown}
    warnings = [text for path, step in with_theta.items() if (text := odd_threshold(step, trial.peaks.get(path, 0.0)))]
    warnings += [text for step in walked if (text := unfolded(step, folded) or needless(step))]

    number = calibration if calibration is not None else getattr(batches, "count", None)
    trial_run = functools.partial(rehearse, convert, calibration=number if isinstance(number, int) else None)
    neurons, errors = ({}, []) if problems else _rehearsed(trial_run, ann, few, weights, encoder, demands)
    problems += errors

    def becomes(step: Step) -> str:
        numbers = [
            n for n, obstacle in enumerate(problems, 1) if (obstacle.path, obstacle.name) == (step.path, step.name)
        ]
        if numbers:
            return f"obstacle {numbers[0]}"
        if step.problem:
            return "obstacle 1" if declared else "left to the method"  # 1: there is nothing to convert
        if isinstance(step.module, kinds):
            neuron = f"{type(neurons[step.path]).__name__} neuron" if step.path in neurons else "neuron"
            return f"{neuron}, {trained(step) if step.path in with_theta else 'θ from calibration images'}"
        if isinstance(step.module, Site):
            return step.module.operator.summary()
        return f"folded into {folded[step.path]}" if step.path in folded else _carried(step)

    listed: dict[tuple[str, str], Layer] = {}
    for step in walked:
        if (step.module is not None or step.problem) and (step.path, step.name) not in listed:
            row = Layer(step.path, name_of(step), trial.shapes.get(step.node), size(step.module), becomes(step))
            listed[step.path, step.name] = row
    return Check(name, [*listed.values(), *_idle(ann, kinds, walked)], problems, warnings, others)


def _rehearsed(
    convert: Any,
    ann: nn.Module,
    few: Sequence[Batch],
    weights: Weights | None,
    encoder: InputEncoder | None,
    demands: Sequence[Demand],
) -> tuple[Mapping[str, nn.Module], list[Obstacle]]:
    """Neurons of the spiking network of a rehearsal by path, and its ValueError as an obstacle."""
    neurons: Mapping[str, nn.Module] = {}
    try:
        snn = (weights or Weights()).convert(convert, ann, few)
        if snn is None:
            return {}, []
        neurons = snn.neurons()
        if encoder is not None:
            snn.encoded(encoder, few)
        for demand in demands if few else ():
            demand(snn, few[0][0])
    except ValueError as error:
        return neurons, [Obstacle(str(error))]
    return neurons, []


def _carried(step: Step) -> str:
    """Role of an operation that conversion does not change."""
    if not step.after_spikes:
        return "weights, applied to the image (computed once, analog)" if size(step.module) else "computed once, analog"
    if isinstance(step.module, NORMS):
        return "batch norm, computed in every step"
    return "weights, applied to spikes" if size(step.module) else "unchanged, applied in every step"


def _idle(ann: nn.Module, kinds: tuple[type, ...], walked: Sequence[Step]) -> list[Layer]:
    """The layers that the forward pass does not call."""
    called = {step.path for step in walked}
    idle = {
        path: module
        for path, module in ann.named_modules()
        if walked and path not in called and (isinstance(module, kinds) or (size(module) and not [*module.children()]))
    }
    return [Layer(path, type(module).__name__, None, size(module), "never called") for path, module in idle.items()]
