"""Preparation for training with quantized activations: every ReLU becomes a QCFS whose threshold is set from data."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.conversion.calibration import observed_thresholds
from snnconv.conversion.rules import least_squares
from snnconv.data.loaders import Loader, device_of
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.canonical import is_canonical
from snnconv.nn.graph.capture import capture
from snnconv.nn.graph.kinds import NORMS, is_activation, trained_threshold
from snnconv.nn.graph.relus import replace_relus
from snnconv.spiking.operators import choice

CALIBRATION = 1000  # number of calibration samples, as in conf/data/


def prepare(
    model: nn.Module, levels: int = 8, calibration: Any = None, activation: Callable[[int], nn.Module] = QCFS
) -> nn.Module:
    """A copy of `model` in which every ReLU (`nn.ReLU`, `F.relu`, `x.relu()`, ReLU6) is a trainable `activation(levels)`.

    Train the copy with any loop, then `convert` it.  Weights keep their names, so a state dict of `model` loads with
    `strict=False`; each activation adds one parameter, its threshold θ in the unit of its input.  `levels` is L, the number of
    steps between 0 and θ; few levels suit few timesteps.

    The initial θ minimizes the squared error between ReLU and its quantization on `calibration`, an iterable of
    (inputs [N, …], targets) or of inputs; the first 1000 samples are used.  Without `calibration` it is computed from the first
    batch that the network receives.  (From a fixed initial value such as 8, Adam would need thousands of steps.  An `activation`
    that sets its own θ keeps it.)

    A network that already has such activations and no ReLU gets new thresholds from `calibration`.

    A network that symbolic tracing does not support (branches, optional arguments, other ways to call ReLU) needs `calibration`;
    its forward pass is captured with the first batch (`nn.graph.capture`).  So is that of a network that calls functions such as
    `F.max_pool2d`; without `calibration` here, `convert` needs it.

    ValueError if there is no ReLU, if the forward pass cannot be captured, or naming a layer that no calibration input activates.

    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from torch import nn
    >>> from snnconv.conversion.preparation import prepare
    >>> images = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    >>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> network = prepare(model, levels=4, calibration=images)
    >>> network[1].levels, bool(0.1 < network[1].threshold < 10)
    (4, True)
    """
    batches = [] if calibration is None else Loader(calibration, device_of(model)).first(CALIBRATION)
    trained = {path for path, module in model.named_modules() if is_activation(module)}
    if trained and calibration is not None and not any(isinstance(module, nn.ReLU) for module in model.modules()):
        network, trained = copy.deepcopy(model), set()
    else:
        network = replace_relus(model, lambda: activation(levels), batches[0][0] if batches else None)
        if batches:
            network = _convertible(network, batches[0][0])
    network.to(device_of(model)).train(model.training)
    sites = {path: site for path, site in network.named_modules() if is_activation(site) and path not in trained}
    if calibration is not None:
        _calibrate(network, sites, batches)
    return network


def _convertible(network: nn.Module, example: Tensor) -> nn.Module:
    """`network`, captured if it calls functions that only a captured network can be converted with."""
    leaves = (*{type(module) for module in network.modules() if is_activation(module)}, *choice.EXTRA)
    if is_canonical(network, leaves):
        return network
    try:
        return capture(network, example, leaves)
    except ValueError:  # as it is, it can be trained; `convert` and `check` state the reason
        return network


def _calibrate(network: nn.Module, sites: dict[str, Any], batches: list[tuple[Tensor, Tensor]]) -> None:
    """Set θ of `sites` from `batches`; untrained batch norms use the statistics of the batch."""
    norms = [module for module in network.modules() if isinstance(module, NORMS)]
    if batches and any(norm.num_batches_tracked == 0 for norm in norms if norm.num_batches_tracked is not None):
        trial = copy.deepcopy(network).train()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            trial(batches[0][0])
        thresholds: dict[str, Any] = {path: trained_threshold(trial.get_submodule(path)) for path in sites}
    else:
        thresholds = observed_thresholds(network, sites, batches, least_squares)
    for path, threshold in thresholds.items():
        sites[path].set_threshold(threshold)
