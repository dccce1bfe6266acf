"""The noise of conversion, measured in training."""

import pytest
import torch
from torch import nn

from snnconv.nn.activations.noisy_qcfs import NoisyQCFS
from snnconv.nn.activations.qcfs import QCFS
from snnconv.training.activation_noise import measure_noise
from snnconv.training.loop import fit
from snnconv.training.settings import Fit


def literal_noise(network: nn.Module, images: torch.Tensor, timesteps: int) -> list[float]:
    """Activation by activation: the network as it is, and T times with integrate-and-fire in plain words."""
    v, rates, activations = {}, {}, {}

    def remember(site, inputs, output):
        activations[site] = output

    def spike(site, inputs, output):
        theta = site.threshold.item()
        charged = v.get(site, torch.full_like(inputs[0], theta / 2)) + inputs[0]
        spikes = torch.where(charged >= theta, theta, 0.0)
        v[site], rates[site] = charged - spikes, rates.get(site, 0) + spikes / timesteps
        return spikes

    sites = [module for module in network.modules() if isinstance(module, QCFS)]
    for hook, times in ((remember, 1), (spike, timesteps)):
        handles = [site.register_forward_hook(hook) for site in sites]
        for _ in range(times):
            network(images)
        for handle in handles:
            handle.remove()
    return [(activations[site] - rates[site]).std().item() for site in sites]


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("timesteps", [1, 4])
@torch.no_grad()
def test_noise_is_what_spikes_lack(exact_network, tiny_batches, kind, timesteps):
    network, held_out = exact_network(kind, lambda: NoisyQCFS(4, 8.0, timesteps=timesteps)).train(), tiny_batches(16, 4)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure_noise(network, held_out, images=10)
    images = torch.cat([x for x, _ in held_out])[:10]
    expected = literal_noise(network.eval(), images, timesteps)
    sites = [module for module in network.modules() if isinstance(module, NoisyQCFS)]
    assert [site.sigma.item() for site in sites] == pytest.approx(expected, rel=1e-5)
    assert max(expected) > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_noise_that_is_given_stays(exact_network, tiny_batches):
    network = exact_network("plain", lambda: NoisyQCFS(4, 8.0, timesteps=None, noise=0.125))
    measure_noise(network, tiny_batches())
    assert all(site.sigma == 0.125 for site in network.modules() if isinstance(site, NoisyQCFS))


def test_training_measures_before_each_epoch(exact_network, tiny_batches, open_tiny_run):
    network = exact_network("plain", lambda: NoisyQCFS(4, 8.0, timesteps=2))
    network[1].eps, network[6].eps, seen = 1e-5, 1e-5, []
    next(site for site in network.modules() if isinstance(site, NoisyQCFS)).register_forward_pre_hook(
        lambda site, inputs: seen.append(site.sigma.item()) if site.training else None
    )
    settings = Fit(epochs=2, lr=0.1, batch_size=16)
    fit(network, tiny_batches(16, 16, shuffle=True), tiny_batches(16, 8), settings, open_tiny_run())
    assert len(seen) == 2  # a step an epoch
    assert 0 < seen[0] != seen[1] > 0


def test_without_held_out_images_there_is_nothing_to_measure_on(exact_network, tiny_batches):
    network, nothing = exact_network("plain", lambda: NoisyQCFS(4, 8.0)), tiny_batches(0)
    with pytest.raises(ValueError, match=r"data\.valid=0: .* activation\.timesteps=null"):
        measure_noise(network, nothing)
    measure_noise(exact_network("plain"), nothing)  # of no concern to other activations
