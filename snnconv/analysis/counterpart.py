"""The captured ANN of a converted network, with a module at the path of every neuron and pooling at the same positions."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.nn.graph.canonical import is_canonical
from snnconv.nn.graph.capture import capture
from snnconv.nn.graph.kinds import LINEAR_MODULES, is_activation
from snnconv.nn.graph.relus import replace_relus
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.operators import choice
from snnconv.spiking.operators.base import Encoder
from snnconv.spiking.operators.encoded_outputs import encode_outputs
from snnconv.spiking.operators.placement import place_operators


def counterpart(model: nn.Module, snn: SpikingModel, batches: Iterable[tuple[Tensor, Any]]) -> nn.Module:
    """`model` with a module at the path of every neuron of `snn`, and max pooling before or after it as in `snn`.

    The result is `model` itself if it has this form, else a copy with the same outputs: as in conversion, a network that calls
    functions such as `F.max_pool2d` is captured, with the first of `batches` as the example, and max pooling is swapped with
    activations (`operators.placement`).  ValueError naming a neuron without a counterpart.
    """
    paths, missing = list(snn.neurons()), ""
    for candidate in _candidates(model, batches):
        modules = dict(candidate.named_modules())
        absent = [path for path in paths if isinstance(modules.get(path), (*LINEAR_MODULES, type(None)))]
        if not absent:
            return _with_pools_beside(candidate, {type(modules[path]) for path in paths})
        missing = missing or absent[0]
    raise ValueError(f"model: has no activation at {missing}, but snn has neurons there; pass the network from which snn was "
                     "converted")  # fmt: skip


def _with_pools_beside(ann: nn.Module, kinds: set[type[nn.Module]]) -> nn.Module:
    """`ann`, or a copy in which max pooling is swapped with activations of `kinds`; a network with encoders already is."""
    return ann if Encoder in kinds else place_operators(ann, tuple(kinds), choice.none)


def _candidates(model: nn.Module, batches: Iterable[tuple[Tensor, Any]]) -> Iterator[nn.Module]:
    """`model` as conversion enters it (`conversion.entrance`), then other copies of it in which calls are modules."""
    kinds = _kinds_in(model)
    canonical = is_canonical(model, (*kinds, *choice.EXTRA))
    if canonical:
        yield model
    graph = _captured(model, batches, (*kinds, *choice.EXTRA))
    if graph is not None:
        yield graph
    if not canonical:
        yield model
    if len(kinds) == 1:
        with suppress(ValueError):  # it cannot be followed without an example
            yield replace_relus(model, nn.ReLU)
    if graph is not None:
        yield place_operators(graph, (*_kinds_in(graph), Encoder))
        yield encode_outputs(graph)


def _kinds_in(model: nn.Module) -> tuple[type[nn.Module], ...]:
    """ReLU, and the kinds of activations with thresholds that `model` has."""
    return (nn.ReLU, *{type(module) for module in model.modules() if is_activation(module)})


def _captured(
    model: nn.Module, batches: Iterable[tuple[Tensor, Any]], kinds: tuple[type, ...]
) -> fx.GraphModule | None:
    """`model` as a graph; None without images, or if it cannot be captured."""
    with torch.random.fork_rng(devices=[]):  # a loader draws numbers when it begins
        images = next((images for images, _ in batches), None)
    with suppress(ValueError):
        return None if images is None else capture(model, images, kinds)
    return None
