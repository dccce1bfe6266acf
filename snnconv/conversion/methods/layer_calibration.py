"""Layer by layer, what neurons emit is brought to what the ANN puts out: SNN calibration.  Li et al., ICML 2021; IJCV 2024."""

import copy
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from snnconv.conversion.method import converts, thresholds, training_of
from snnconv.conversion.rules import Rule, least_squares
from snnconv.data.batches import calibration_images
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.functional import qcfs
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.base import per_channel as by_channel
from snnconv.spiking.neurons.biased import BiasedIntegrateFire
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.side_by_side import Site, channel_mean, side_by_side
from snnconv.spiking.simulation import Simulation, Timing

KINDS = (QCFS, nn.ReLU)


@converts(*KINDS, rule=least_squares)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    variant: str = "light",
    rule: Rule | None = None,
    per_channel: bool = False,
    images: int = 128,
    epochs: int = 12,
    lr: float = 1e-3,
    batch_size: int = 32,
    seed: int = 0,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with integrate-and-fire neurons, corrected one after the other on `images` calibration images for each T asked for.

    With a the ANN's activation, s̄ the mean output over T steps after what comes before was corrected, and means over images:

    light     a constant current b_c = mean(a − s̄), over space too, is added in channel c.
    advanced  the weights of the layer are trained for `epochs` by Adam (`batch_size`, rate `lr` that a cosine brings to 0) on
              |qcfs(z̄, θ, T) − a|², z̄ the current for the mean input; then v(0) += T·mean(a − s̄) for each neuron.
              `epochs` = 0: v(0) alone.

    Neurons start from v(0) = θ/2, as everywhere here; the authors' code starts from 0 and adds θ/2T in each step, which is as much
    after T steps and comes later.  Trained thresholds stay; those of ReLU networks are found by `rule` with levels = T.

    ValueError for settings out of range, without images, or naming the path of every layer that cannot be carried.
    """
    if variant not in ("light", "advanced"):
        raise ValueError(f"method.variant={variant!r}: light (biases) or advanced (initial potentials and weights)")
    if type(epochs) is not int or epochs < 0 or type(batch_size) is not int or batch_size < 1 or not 0 < lr < math.inf:
        raise ValueError(f"method.epochs={epochs}, method.batch_size={batch_size}, method.lr={lr}: "
                         "an integer of at least 0, one of at least 1, a number above 0")  # fmt: skip
    ann = copy.deepcopy(ann)  # the caller's may change before a T is requested
    find = functools.partial(thresholds, ann, KINDS, batches, rule, per_channel=per_channel)
    training = {"epochs": epochs, "lr": lr, "batch_size": batch_size}
    advanced = None if variant == "light" else functools.partial(_advanced, training=training)
    calibrated = functools.partial(_calibrated, ann, find, calibration_images(batches, images), advanced, seed)
    latency = Latency(needs_training="weights" if advanced and epochs else training_of(ann))
    first = _uncalibrated(ann, find, 8)  # until a T is requested
    return SpikingModel(first, latency, Timing(anytime=False), for_timesteps=calibrated, simulation=simulate)


def _uncalibrated(ann: nn.Module, find: Callable[..., Mapping[str, Any]], timesteps: int) -> nn.Module:
    """`ann` with neurons of the thresholds that `find` returns for L = `timesteps`."""
    theta = find(levels=timesteps)
    return to_spiking(ann, KINDS, lambda path, site: IntegrateFire(theta[path]))


def _calibrated(
    ann: nn.Module,
    find: Callable[..., Mapping[str, Any]],
    images: Tensor,
    advanced: Callable[..., None] | None,
    seed: int,
    timesteps: int,
) -> nn.Module:
    """The same, calibrated layer by layer on `images` for T = `timesteps`: by biases, or by `advanced`."""
    network, trained = _uncalibrated(ann, find, timesteps), set[nn.Parameter]()
    generator = torch.Generator().manual_seed(seed)
    for site in side_by_side(ann, network, images, timesteps):
        if advanced:
            advanced(site, trained, generator)
        else:
            bias = channel_mean(site.activation - site.output().mean(0))
            site.clock.neuron = BiasedIntegrateFire(site.clock.neuron.threshold, bias.unsqueeze(0))
    return network


def _advanced(site: Site, trained: set[nn.Parameter], generator: torch.Generator, training: Mapping[str, Any]) -> None:
    """Train the weights of the site's layer that are not yet `trained`, then set v(0) of its neuron."""
    theta: Any = site.clock.neuron.threshold
    weights = [w for w in site.layer.parameters() if w.dim() > 1 and w not in trained]
    distill(site, weights, **training, generator=generator)
    trained.update(weights)  # weights that lead to several sites are trained at the first one
    missing = (site.activation - site.output().mean(0)).mean(0)
    site.clock.neuron = IntegrateFire(theta, 0.5 + site.timesteps * missing / _meeting(theta, missing, axis=0))


ADVANCED = "SNN calibration with initial potentials and weights in place of biases.  Li et al., ICML 2021; IJCV 2024."
convert.variant("layer_calibration_advanced", ADVANCED, variant="advanced")


def distill(
    site: Site, weights: list[nn.Parameter], epochs: int, lr: float, batch_size: int, generator: torch.Generator
) -> None:
    """Train `weights` of the site's layer so that its quantized mean current comes close to the ANN's activation."""
    if not weights or not epochs:
        return
    inputs, target, threshold = site.mean_inputs(), site.activation, cast(Any, site.clock.neuron.threshold)
    theta, one = _meeting(threshold, target, axis=1), target.new_ones(())
    optimizer = torch.optim.Adam(weights, lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(len(target) / batch_size))
    wanted = [w.requires_grad for w in weights]
    for w in weights:
        w.requires_grad_()
    for _ in range(epochs):
        for rows in torch.randperm(len(target), generator=generator).to(target.device).split(batch_size):
            with torch.enable_grad():
                z = site.layer(*(x[rows] for x in inputs))
                error = theta * qcfs(z / theta, one, site.timesteps) - target[rows]
                error.square().sum(1).mean().backward(inputs=weights)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    for w, was_wanted in zip(weights, wanted, strict=True):
        w.requires_grad_(was_wanted)


def _meeting(theta: float | Tensor, x: Tensor, axis: int) -> float | Tensor:
    """θ, shaped to meet the channels of `x`."""
    return by_channel(theta.to(x), x, axis) if isinstance(theta, Tensor) else theta
