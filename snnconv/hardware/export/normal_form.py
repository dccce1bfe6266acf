"""Normal form of a spiking network: the few operations that exchange formats have, spikes of 1, and thresholds of 1 where possible.

Left are convolutions, linear layers, average pooling, flattening, additions and integrate-and-fire neurons.  Each value of the new
network is that of the old one divided by a known factor, and factors move into weights: a neuron's θ multiplies the weights that it
feeds, and divides those that feed it.  Where spikes meet an addition without weights, a 1×1 convolution (or a diagonal linear
layer) of their own carries the factor; it also does what a shortcut without weights does: every second pixel, channels of zeros.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from snnconv.hardware.export.normal_rewriting import Rewriting
from snnconv.hardware.export.normal_values import shaped
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.neurons.base import Threshold
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.simulation import Simulation


@dataclass
class NormalForm:
    """`model` simulates it; by path, `thresholds` are those before, and `scaled` names the neurons whose θ is 1 now."""

    model: SpikingModel
    thresholds: dict[str, Threshold]
    scaled: list[str]
    unit: bool  # was it asked for thresholds of 1?

    def graph(self, example: Tensor) -> fx.Graph:
        """Its operations, with the shapes that they have for `example` [N, …]."""
        return shaped(self.model.network, example)


@torch.no_grad()
def normal_form(snn: SpikingModel, example: Tensor, unit: bool = True) -> NormalForm:
    """`snn`, a network of plain integrate-and-fire neurons, in normal form; `example` is an image or more, [N, …].

    Not `unit`: thresholds stay as they are, and only what spikes are multiplied by moves into weights.  Weights are computed in
    float64 and rounded once, to float32; factors that are powers of two change no spike.

    ValueError naming the layer: for other neurons, and for operations that do not belong to the form.
    """
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
