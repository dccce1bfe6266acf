"""The ANN of a converted network, with a module in the place of every neuron."""

from torch import nn

from snnconv.nn.graph.kinds import is_activation
from snnconv.nn.graph.relus import replace_relus
from snnconv.spiking.model import SpikingModel


def counterpart(model: nn.Module, snn: SpikingModel) -> nn.Module:
    """`model` with a module at the path of every neuron of `snn`: itself, or a copy in which each ReLU call is a module.

    ValueError naming a neuron that has no counterpart.
    """
    paths = list(snn.neurons())
    missing = _missing(model, paths)
    if missing and not any(is_activation(module) for module in model.modules()):
        model = replace_relus(model, nn.ReLU)
        missing = _missing(model, paths)
    if missing:
        raise ValueError(f"model: has no activation at {missing[0]}, where snn has neurons; pass the network that snn was "
                         "converted from")  # fmt: skip
    return model


def _missing(model: nn.Module, paths: list[str]) -> list[str]:
    modules = dict(model.named_modules())
    return [path for path in paths if path not in modules]
