"""Neurons with an integer form: integrate-and-fire with any v(0), and with a constant bias that its weight layer takes over."""

from typing import Any

from torch import nn

from snnconv.hardware.integer.plan import Plan
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.biased import BiasedIntegrateFire, BiasedNode
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


def require_plain(path: str, neuron: Any, presented: bool) -> None:
    """Raise a ValueError unless `neuron` has an integer form; `presented`: the method simulates the image several times."""
    if type(neuron) is BiasedIntegrateFire and type(neuron.node) is BiasedNode and not presented:
        bias = neuron.node.bias
        if bool((bias == bias[:1]).all()):
            return
        raise ValueError(f"{path} (BiasedIntegrateFire): its bias changes over time, and integer neurons have none; use "
                         "method=layer_calibration (a constant bias) or potential_init")  # fmt: skip
    if type(neuron) is not IntegrateFire or presented:
        raise ValueError(f"{path} ({type(neuron).__name__}): only plain integrate-and-fire neurons have an integer form "
                         "(method=qcfs, or a rule for thresholds: max_norm, mse, …)")  # fmt: skip


def fold_biases(plan: Plan) -> None:
    """Add the biases of neurons to the layers before them.  ValueError if other layers receive the same sum."""
    for group in plan.groups:
        for path in group.readers:
            clock: Any = plan.modules.get(path)
            if not isinstance(clock, OverTime) or type(clock.neuron) is not BiasedIntegrateFire:
                continue
            if len(group.readers) > 1:
                raise ValueError(f"{path}: its bias cannot become a part of the weights before it, because "
                                 f"{', '.join(set(group.readers) - {path})} receives the same sum")  # fmt: skip
            layer: Any = plan.modules[str(group.layers[0][0].target)]
            biases: Any = clock.neuron.node.bias
            bias = biases[0].to(layer.weight).expand(len(layer.weight))
            layer.bias = nn.Parameter(bias.clone() if layer.bias is None else layer.bias.detach() + bias)
            clock.neuron = _without_bias(clock.neuron)


def _without_bias(biased: Any) -> IntegrateFire:
    v_initial = biased.node.v_initial
    neuron = IntegrateFire(biased.threshold, v_initial if v_initial.dim() else float(v_initial))
    neuron.amplitude = biased.amplitude
    return neuron
