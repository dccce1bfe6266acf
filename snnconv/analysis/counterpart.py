"""The ANN of a converted network, with a module at the path of every neuron."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.nn.graph.capture import capture
from snnconv.nn.graph.kinds import LINEAR_MODULES, is_activation
from snnconv.nn.graph.relus import replace_relus
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.operators.base import Encoder
from snnconv.spiking.operators.encoded_outputs import encode_outputs
from snnconv.spiking.operators.placement import place_operators


def counterpart(model: nn.Module, snn: SpikingModel, batches: Iterable[tuple[Tensor, Any]]) -> nn.Module:
    """`model` with a module at the path of every neuron of `snn`: itself, or a copy in which each ReLU call is a module.

    The first of `batches` is the example for capturing the network.  ValueError naming a neuron without a counterpart.
    """
    paths, missing = list(snn.neurons()), ""
    for candidate in _candidates(model, batches):
        modules = dict(candidate.named_modules())
        absent = [path for path in paths if isinstance(modules.get(path), (*LINEAR_MODULES, type(None)))]
        if not absent:
            return candidate
        missing = missing or absent[0]
    raise ValueError(f"model: has no activation at {missing}, but snn has neurons there; pass the network from which snn was "
                     "converted")  # fmt: skip


def _candidates(model: nn.Module, batches: Iterable[tuple[Tensor, Any]]) -> Iterator[nn.Module]:
    """`model`, and copies of it in which calls are modules."""
    yield model
    if not any(is_activation(module) for module in model.modules()):
        with suppress(ValueError):  # it cannot be followed without an example
            yield replace_relus(model, nn.ReLU)
    with torch.random.fork_rng(devices=[]):  # a loader draws numbers when it begins
        images = next((images for images, _ in batches), None)
    if images is not None:
        with suppress(ValueError):  # then it is another network
            graph = capture(model, images)
            yield graph
            kinds = (nn.ReLU, Encoder, *{type(module) for module in graph.modules() if is_activation(module)})
            yield place_operators(graph, kinds)
            yield encode_outputs(graph)
