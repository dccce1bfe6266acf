"""Disturbed images: what disturbs stays in bounds and does what its name says; accuracies are those of the networks."""

import copy

import pytest
import torch
from hydra.utils import instantiate
from torch.nn import functional as F

from snnconv.analysis.robustness import blur, brightness, contrast, fgsm, noise, pgd, robustness
from snnconv.conversion.methods import parallel, qcfs
from snnconv.spiking.accuracy import accuracy, accuracy_over_time
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.simulation import Timing
from snnconv.training.loop import fit


def no_gradient(pixels):
    raise AssertionError("a corruption knows nothing of the network")


@pytest.fixture
def pixels():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def trained(compose_config, open_tiny_run, tiny_batches, fresh_network):
    """A network that tells a bright top from a bright bottom."""
    run, ann = (
        open_tiny_run("train", "fit.epochs=20", "fit.batch_size=4", "fit.select=last", "fit.lr=0.05"),
        fresh_network(),
    )
    fit(ann, tiny_batches(16, 4, shuffle=True), tiny_batches(0), instantiate(run.cfg.fit), run)
    return ann.eval()


@pytest.mark.parametrize("name", ["noise 0.05", "noise 0.1", "blur 1 px", "contrast 0.4", "brightness 1.5"])
def test_corruptions_stay_in_bounds_and_repeat(name, compose_config, pixels):
    disturb = instantiate(compose_config("explain=robustness").explain.disturbances)[name]
    once = disturb(pixels, no_gradient)
    assert once.shape == pixels.shape
    assert 0 <= once.min() < once.max() <= 1
    assert not torch.equal(once, pixels)
    assert torch.equal(once, disturb(pixels.clone(), no_gradient))


def test_corruptions_do_what_their_names_say(pixels):
    grey = torch.full((1, 3, 64, 64), 0.5)
    assert (noise(grey, no_gradient, sigma=0.05) - grey).std().item() == pytest.approx(0.05, rel=0.05)
    assert blur(pixels, no_gradient, sigma=1.0).std() < pixels.std() / 2
    assert contrast(pixels, no_gradient, factor=0.4).std().item() == pytest.approx(0.4 * pixels.std().item(), rel=0.01)
    torch.testing.assert_close(brightness(pixels / 2, no_gradient, factor=1.5), 0.75 * pixels)


def test_attacks_stay_near_and_find_what_is_wrong(pixels):
    """On a loss whose gradient is known: the sum of squared distances from 0.5."""
    gradient = lambda x: 2 * (x - 0.5)  # noqa: E731
    for attack in (fgsm, pgd):
        found = attack(pixels, gradient, epsilon=0.1)
        assert (found - pixels).abs().max() <= 0.1 + 1e-6
        assert 0 <= found.min() <= found.max() <= 1
        torch.testing.assert_close(found, (pixels + 0.1 * (pixels - 0.5).sign()).clamp(0, 1))


def test_pgd_turns_back_where_one_step_goes_too_far():
    """The gradient changes its sign at 0.52: one step of 0.1 jumps over the peak, small ones stay on it."""
    x = torch.full((1, 1, 2, 2), 0.5)
    gradient = lambda x: 0.52 - x  # noqa: E731
    assert (fgsm(x, gradient, epsilon=0.1) - 0.6).abs().max() < 1e-6
    assert (pgd(x, gradient, epsilon=0.1, steps=10, rate=0.1) - 0.52).abs().max() < 0.011


def test_clean_is_the_accuracy_and_attacks_lower_it(trained, tiny_batches):
    snn, data = qcfs.convert(trained, [], neuron=IntegrateFire), tiny_batches(16, 4)
    before = copy.deepcopy(trained.state_dict())
    found = robustness(trained, snn, data, {"FGSM": lambda p, g: fgsm(p, g, epsilon=0.5)}, [2, 4], 16)
    assert found["clean"]["ann"] == accuracy(trained, data) == 1.0
    assert found["clean"]["snn"] == accuracy_over_time(snn, data, [2, 4]).accuracy
    assert found["FGSM"]["ann"] < 1.0
    assert all(torch.equal(a, b) for a, b in zip(before.values(), trained.state_dict().values(), strict=True))


def test_the_gradient_is_that_of_the_pixels(trained, tiny_batches):
    """Of the loss of the network that sees them normalized."""
    data, kept = tiny_batches(4, 4), {}

    def look(pixels, gradient):
        kept.update(pixels=pixels, gradient=gradient(pixels))
        return pixels

    images, labels = next(iter(data))
    robustness(trained, qcfs.convert(trained, [], neuron=IntegrateFire), data, {"look": look}, [1], 4)
    torch.testing.assert_close((kept["pixels"] - 0.5) / 0.25, images)  # mean and std of the set
    x = images.clone().requires_grad_()
    loss = F.cross_entropy(trained(x), labels, reduction="sum")
    torch.testing.assert_close(kept["gradient"], torch.autograd.grad(loss, x)[0] / 0.25)


def test_a_method_that_knows_t_is_run_for_each(trained, tiny_batches):
    snn, data = parallel.convert(trained, []), tiny_batches(8, 4)
    found = robustness(trained, snn, data, {}, [1, 4], 8)
    assert found == {"clean": {"ann": 1.0, "snn": accuracy_over_time(snn, data, [1, 4]).accuracy}}


def test_only_so_many_images(trained, tiny_batches):
    seen = []
    disturb = lambda p, g: seen.append(len(p)) or p  # noqa: E731
    robustness(
        trained, qcfs.convert(trained, [], neuron=IntegrateFire), tiny_batches(16, 4), {"count": disturb}, [1], 6
    )
    assert seen == [4, 2]


def test_a_network_for_each_t_is_made_once(trained, tiny_batches):
    """Making a network can be slow."""
    made = []

    def network(t: int):
        made.append(t)
        return qcfs.convert(trained, [], neuron=IntegrateFire).network

    snn = SpikingModel(network(0), timing=Timing(anytime=False), for_timesteps=network)
    same = {"same": lambda p, g: p}
    found = robustness(trained, snn, tiny_batches(16, 4), same, [4, 2], 16)
    assert made == [0, 2, 4]
    plain = robustness(trained, qcfs.convert(trained, [], neuron=IntegrateFire), tiny_batches(16, 4), same, [2, 4], 16)
    assert found == plain
