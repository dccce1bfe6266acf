"""Normal form of a spiking network: only operations that exchange formats support, spikes of 1, thresholds of 1 where possible.

The operations are convolutions, linear layers, average pooling, flattening, additions and integrate-and-fire neurons.  Each value
of the new network is the old value divided by a factor, and factors are folded into weights: θ of a neuron multiplies the weights
after it and divides the weights before it.  If spikes are added without weights, a new 1×1 convolution (or diagonal linear layer)
applies the factor; it also replaces a shortcut that selects every second pixel or adds channels of zeros.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from snnconv.hardware.export.checking import require_direct_input
from snnconv.hardware.export.normal_rewriting import Rewriting
from snnconv.hardware.export.normal_values import shaped
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.neurons.base import Threshold
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.simulation import Simulation


@dataclass
class NormalForm:
    """`model` simulates the network; `thresholds` are the original θ by path, and `scaled` the neurons whose θ is now 1."""

    model: SpikingModel
    thresholds: dict[str, Threshold]
    scaled: list[str]
    unit: bool  # whether thresholds of 1 were requested

    def graph(self, example: Tensor) -> fx.Graph:
        """The operations of the network, with their shapes for `example` [N, …]."""
        return shaped(self.model.network, example)


@torch.no_grad()
def normal_form(snn: SpikingModel, example: Tensor, unit: bool = True) -> NormalForm:
    """The normal form of `snn`, a network of plain integrate-and-fire neurons; `example` is at least one image, [N, …].

    If `unit` is false, thresholds are not changed, and only the amplitudes of spikes are folded into weights.  Weights are computed
    in float64 and rounded once, to float32; factors that are powers of two change no spike.

    ValueError naming the layer for other neurons, and for operations that the normal form does not support.
    """
    require_direct_input(snn)
    for path, neuron in snn.neurons().items():
        if type(neuron) is not IntegrateFire or snn.for_timesteps or snn.timing.presented or snn.timing.discard:
            raise ValueError(f"{path} ({type(neuron).__name__}): only plain integrate-and-fire neurons can be exported "
                             "(method=qcfs, or a rule for thresholds: max_norm, mse, …)")  # fmt: skip
    form = Rewriting(copy.deepcopy((snn.exact or snn).network).float().cpu(), example[:1].float().cpu(), unit)
    for node in reversed(list(form.graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            form.graph.erase_node(node)
    network = fx.GraphModule(form.network, form.graph)
    settings = Simulation(schedule="step", fold_threshold=False, channels_last=False)
    return NormalForm(SpikingModel(network, snn.latency, simulation=settings), form.thresholds, form.scaled, unit)
