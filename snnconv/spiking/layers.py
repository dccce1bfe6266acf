"""Layers of a converted network in the order of computation: shape, parameters, thresholds."""

import functools
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.data.batches import first_images
from snnconv.data.loaders import device_of
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.operators.base import OperatorOverTime
from snnconv.spiking.recording import recording


@torch.no_grad()
def list_layers(snn: SpikingModel, batches: Iterable[tuple[Tensor, Any]], timesteps: int) -> list[dict[str, Any]]:
    """Layers with weights, neurons and operators of `snn`, in the order in which one image of `batches` meets them.

    Each has `path`, `kind`, `shape` of the output for one image, number of `parameters` (of neurons and operators: 0), and
    `threshold`, the smallest and the largest θ of a layer of neurons, else None.  Empty without images.
    """
    rows: dict[str, dict[str, Any]] = {}
    images = first_images(batches, 1)
    if not images:
        return []
    snn.prepare(timesteps)  # the network may depend on T
    with recording(snn), ExitStack() as closing:
        for path, layer in _listed(snn.network).items():
            note = functools.partial(_note, rows, path)
            closing.callback(layer.register_forward_hook(note).remove)
        snn(images[0].to(device_of(snn)), timesteps)
    return list(rows.values())


def _listed(network: nn.Module) -> dict[str, nn.Module]:
    """Neurons, operators, and other modules that have parameters, by path."""
    whole = {path: m for path, m in network.named_modules() if isinstance(m, OverTime | OperatorOverTime)}
    inside = tuple(f"{path}." for path in whole)
    weights = {
        path: module
        for path, module in network.named_modules()
        if path and not path.startswith(inside) and path not in whole and [*module.parameters(recurse=False)]
    }
    return {**whole, **weights}


def _note(rows: dict[str, dict[str, Any]], path: str, module: nn.Module, inputs: Any, output: Any) -> None:
    """Forward hook: the row of a layer, at its first call."""
    if path in rows or not isinstance(output, Tensor):
        return
    neuron = module.neuron if isinstance(module, OverTime) else None
    inner = neuron or (module.operator if isinstance(module, OperatorOverTime) else None)
    rows[path] = {
        "path": path,
        "kind": type(inner or module).__name__,
        "shape": list(output.shape[1:]),
        "parameters": 0 if inner else sum(each.numel() for each in module.parameters(recurse=False)),
        "threshold": None if neuron is None else _extremes(neuron.threshold),
    }


def _extremes(threshold: Any) -> list[float]:
    values = torch.as_tensor(threshold)
    return [float(values.min()), float(values.max())]
