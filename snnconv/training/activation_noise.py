"""Noise of activations in training: the difference between activations and spikes, measured layer by layer."""

from typing import Any

import torch
from torch import nn

from snnconv.data.batches import calibration_images
from snnconv.nn.activations.noisy_qcfs import NoisyQCFS
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.side_by_side import side_by_side


@torch.no_grad()
def measure_noise(network: nn.Module, held_out: Any, images: int = 256) -> None:
    """Set σ of every NoisyQCFS to the conversion error; a network without NoisyQCFS is not changed.

    σ is the standard deviation, over neurons and the first `images` of `held_out`, of activation − mean output over the
    activation's `timesteps` T, in a converted copy of `network`.  With several processes the value of rank 0 is used.  ValueError
    without images.  Source: noisy quantization (NoisyQCFS), once per epoch.
    """
    sites = {path: site for path, site in network.named_modules() if isinstance(site, NoisyQCFS) and site.timesteps}
    if not sites:
        return
    if not held_out.count:
        raise ValueError("data.valid=0: activation=noisy_qcfs needs validation images to measure its noise; set data.valid to 500 "
                         "or more, or use constant noise: activation.timesteps=null activation.noise=0.1")  # fmt: skip
    some = calibration_images(held_out, images)
    copy = to_spiking(network, NoisyQCFS, lambda path, site: IntegrateFire(site.threshold.item()))
    for timesteps in {site.timesteps or 0 for site in sites.values()}:
        for site in side_by_side(network, copy, some, timesteps):
            if site.path in sites and sites[site.path].timesteps == timesteps:
                sites[site.path].sigma.fill_((site.activation - site.output().mean(0)).std())
