"""Neurons with an integer form: integrate-and-fire with any v(0) and any bias known before the run, with or without debt."""

from typing import Any

from torch import Tensor, nn

from snnconv.hardware.integer.plan import Plan
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.biased import BiasedIntegrateFire, BiasedNode, NoDebtBiasedNode
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.neurons.no_debt import NoDebtIntegrateFire, NoDebtNode

NEURONS = (IntegrateFire, NoDebtIntegrateFire, BiasedIntegrateFire)
NODES = (BiasedNode, NoDebtBiasedNode)  # of a BiasedIntegrateFire


def require_plain(path: str, neuron: Any, presented: bool) -> None:
    """Raise a ValueError unless `neuron` has an integer form; `presented`: the method simulates the image several times."""
    plain = type(neuron) in NEURONS and (type(neuron) is not BiasedIntegrateFire or type(neuron.node) in NODES)
    if not plain or presented:
        raise ValueError(f"{path} ({type(neuron).__name__}): only integrate-and-fire neurons, also with a bias or no_debt, have an "
                         "integer form (method=qcfs, temporal_bias, or a rule for thresholds: max_norm, mse, …)")  # fmt: skip


def fold_biases(plan: Plan) -> None:
    """Add constant biases of neurons to the layers before them, unless other layers receive the same sum, or pooling follows."""
    for group in plan.groups:
        for path in group.readers:
            clock: Any = plan.modules.get(path)
            bias = bias_of(clock.neuron) if isinstance(clock, OverTime) else None
            before = str(group.layers[0][0].target)
            shared = len(group.readers) > 1 or group.rates[path] != group.rates[before]
            if bias is None or shared or not bool((bias == bias[:1]).all()):
                continue
            layer: Any = plan.modules[before]
            row = bias[0].to(layer.weight).expand(len(layer.weight))
            layer.bias = nn.Parameter(row.clone() if layer.bias is None else layer.bias.detach() + row)
            clock.neuron = _without_bias(clock.neuron)


def bias_of(neuron: Any) -> Tensor | None:
    """b [T, C], whose last row is used in later steps, or None."""
    return neuron.node.bias if isinstance(neuron.node, BiasedNode) else None


def without_debt(neuron: Any) -> bool:
    """Whether v is not negative before the first spike."""
    return isinstance(neuron.node, NoDebtNode | NoDebtBiasedNode)


def initial_fraction(neuron: Any) -> Any:
    """v(0) as a fraction of θ: a number, or one for each neuron."""
    return neuron.v_initial if isinstance(neuron, IntegrateFire) else neuron.node.v_initial


def _without_bias(biased: Any) -> Any:
    v_initial = biased.node.v_initial
    kind = NoDebtIntegrateFire if without_debt(biased) else IntegrateFire
    neuron = kind(biased.threshold, v_initial if v_initial.dim() else float(v_initial))
    neuron.amplitude = biased.amplitude
    return neuron
