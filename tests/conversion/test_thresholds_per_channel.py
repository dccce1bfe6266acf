"""Trained thresholds per channel: a network with θ_c is a network with θ = 1 whose weights are rescaled by θ_c."""

import copy

import pytest
import torch
from torch import nn

import snnconv
from snnconv.conversion.methods.parallel import convert as parallel
from snnconv.conversion.methods.qcfs import convert as qcfs
from snnconv.conversion.storage import load, save
from snnconv.nn.activations.cs_qcfs import CSQCFS
from snnconv.nn.activations.qcfs import QCFS

FIRST, SECOND = torch.tensor([0.5, 1.0, 2.0, 0.25]), torch.tensor([1.0, 4.0, 0.5, 2.0, 0.25, 1.0, 0.5, 2.0])


def network(activation) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 4, 3, padding=1),
        activation(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 8),
        activation(),
    ]
    net = nn.Sequential(*layers, nn.Linear(8, 3)).double().eval()
    for parameter in (p for layer in net if isinstance(layer, nn.Conv2d | nn.Linear) for p in layer.parameters()):
        parameter.data = torch.randint(-8, 9, parameter.shape).double() / 8
    return net


@pytest.fixture
def both() -> tuple[nn.Sequential, nn.Sequential]:
    """A network with θ per channel, and its equal with one θ."""
    net, rescaled = network(lambda: CSQCFS(4)), network(lambda: QCFS(4, 1.0))
    for site, theta in ((net[1], FIRST), (net[5], SECOND)):
        site.set_threshold(theta)
    exact = {1: FIRST.double(), 5: SECOND.double()}
    for path, theta in exact.items():  # θ through softplus is exact to the last bits only
        torch.testing.assert_close(net[path].threshold, theta, rtol=1e-6, atol=0)
    with torch.no_grad():
        first, second = net[1].threshold, net[5].threshold
        rescaled[0].weight /= first.view(-1, 1, 1, 1)
        rescaled[0].bias /= first
        rescaled[4].weight *= first.repeat_interleave(4) / second.view(-1, 1)
        rescaled[4].bias /= second
        rescaled[6].weight *= second
    return net, rescaled


def test_the_networks_are_equal(both, exact_images):
    images = exact_images(20).double() + 1 / 64
    torch.testing.assert_close(both[0](images), both[1](images))


@pytest.mark.parametrize(
    "name", sorted(set(snnconv.methods(network(lambda: QCFS(4)))) - {"finetune", "layer_calibration_advanced"})
)
def test_every_method_converts_them_alike(name, both, exact_images):
    """All but those that train weights.  A tie may be decided by the rounding of θ."""
    batches, images = (
        [(exact_images(64, 10).double() + 1 / 64, torch.arange(64) % 3)],
        exact_images(20).double() + 1 / 64,
    )
    one, other = (snnconv.convert(net, batches, method=name)(images, 6) for net in both)
    assert ((one - other).abs() > 1e-6).double().mean() < 0.02
    assert one.abs().max() > 0


def test_potentials_of_each_neuron_are_in_units_of_its_threshold(both, exact_images):
    """4 channels on maps of 4×4: θ belongs to the first axis of v(0) [C, H, W]."""
    batches, images = (
        [(exact_images(64, 10).double() + 1 / 64, torch.arange(64) % 3)],
        exact_images(20).double() + 1 / 64,
    )
    one, other = (snnconv.convert(net, batches, method="potential_init", variant="per_neuron") for net in both)
    assert ((one(images, 4) - other(images, 4)).abs() > 1e-6).double().mean() < 0.02
    for path, neuron in one.neurons().items():
        torch.testing.assert_close(neuron.v_initial, other.neurons()[path].v_initial, rtol=1e-5, atol=1e-5)


def test_parallel_neurons_equal_the_ann(both, exact_images):
    images = exact_images(20).double() + 1 / 64
    torch.testing.assert_close(parallel(both[0], [])(images, 4).mean(0), both[0](images).detach())


def test_is_saved_and_folded(both, exact_images, tmp_path):
    """Amplitudes per channel move into the next weights; files keep θ."""
    images = exact_images(5)
    net = copy.deepcopy(both[0]).float()
    snn, unfolded = qcfs(net, []), qcfs(net, [], simulate={"fold_threshold": False})
    torch.testing.assert_close(snn(images, 6), unfolded(images, 6), rtol=1e-5, atol=1e-5)
    for path, neuron in snn.neurons().items():
        assert torch.equal(neuron.threshold, net.get_submodule(path).threshold.double())
    save(snn, tmp_path / "snn", example=images)  # the example is for networks that have to be captured
    assert torch.equal(load(tmp_path / "snn")(images, 6), snn(images, 6))
    save(net, tmp_path / "ann")
    assert torch.equal(load(tmp_path / "ann")(images), net(images))
