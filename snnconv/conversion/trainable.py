"""Replacement of plain integrate-and-fire neurons by trainable neurons, and back."""

from typing import Any

from torch import nn

from snnconv.nn.graph.rewrite import set_submodule
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.neurons.surrogate import SurrogateIntegrateFire, surrogate_slope
from snnconv.training.through_time import Settings


def trainable(snn: SpikingModel, settings: Settings) -> nn.Module:
    """Give the neurons of `snn` surrogate gradients, in place, and return its network; ValueError if they are not plain."""
    others = [f"{path} is a {type(n).__name__} neuron" for path, n in snn.neurons().items()
              if type(n) is not IntegrateFire or n.amplitude is not n.threshold]  # fmt: skip
    if others or not snn.timing.anytime or snn.timing.lookahead != 1 or snn.timing.discard:
        reason = others[0] if others else str(snn.latency)
        raise ValueError(f"method.base: only plain integrate-and-fire neurons that run step by step can be trained; here {reason}; "
                         "use method@method.base=qcfs, or convert(…, method='qcfs')")  # fmt: skip
    network = snn.network.requires_grad_()
    slope, frozen = surrogate_slope(settings.surrogate), settings.thresholds == "frozen"
    for path, module in list(network.named_modules()):
        if isinstance(module, OverTime):
            original: Any = module.neuron
            neuron: Any = SurrogateIntegrateFire(original, slope, settings.sharpness, settings.detach_reset, frozen)
            neuron.timesteps = settings.timesteps
            set_submodule(network, path, neuron)
    return network


def plain(network: nn.Module) -> nn.Module:
    """Replace the trainable neurons of `network` by plain ones, in place, and return it."""
    for path, module in list(network.named_modules()):
        if isinstance(module, SurrogateIntegrateFire):
            set_submodule(network, path, OverTime(module.trained()))
    return network
