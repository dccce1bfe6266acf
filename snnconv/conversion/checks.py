"""The result of conversion for every layer, and every obstacle, before anything takes long."""

import contextlib
import copy
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
    trial = Trial(ann, walked, kinds)
    for images, _ in few if walked else []:
        found += [] if (problem := trial.show(images, classes)) is None or refused else [problem]

    sites = {step.path: step for step in walked if isinstance(step.module, kinds) and is_activation(step.module)}
    unknown = [path for path, step in sites.items() if calibrates and theta(step).isnan().any()]
    for path in unknown:
        sites[path].module.set_threshold(1.0)  # type: ignore[union-attr, operator]  # in its place, here
    found += [obstacle for step in sites.values() if (obstacle := no_threshold(step))]
    known = {path: step for path, step in sites.items() if path not in unknown}
    warnings = [text for path, step in known.items() if (text := odd_threshold(step, trial.peaks.get(path, 0.0)))]
    warnings += [text for step in walked if (text := unfolded(step, folded) or needless(step))]

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
            return f"{neuron}, {trained(step) if step.path in known else 'θ from calibration images'}"
        if isinstance(step.module, Site):
            return step.module.operator.summary()
        return f"folded into {folded[step.path]}" if step.path in folded else _carried(step)

    listed: dict[tuple[str, str], Layer] = {}
    for step in walked:
        if (step.module is not None or step.problem) and (step.path, step.name) not in listed:
            row = Layer(step.path, name_of(step), trial.shapes.get(step.node), size(step.module), becomes(step))
            listed[step.path, step.name] = row
    return Check(name, [*listed.values(), *_idle(ann, kinds, walked)], found, warnings, others)


def _carried(step: Step) -> str:
    """Role of an operation that conversion leaves as it is."""
    if not step.after_spikes:
        return "weights, receive the image (computed once, analog)" if size(step.module) else "computed once, analog"
    if isinstance(step.module, NORMS):
        return "stays, an affine map in every step"
    return "weights, receive spikes" if size(step.module) else "acts on each step alone"


def _idle(ann: nn.Module, kinds: tuple[type, ...], walked: Sequence[Step]) -> list[Layer]:
    """The layers that the forward pass does not call."""
    called = {step.path for step in walked}
    idle = {
        path: module
        for path, module in ann.named_modules()
        if walked and path not in called and (isinstance(module, kinds) or (size(module) and not [*module.children()]))
    }
    return [Layer(path, type(module).__name__, None, size(module), "never called") for path, module in idle.items()]
