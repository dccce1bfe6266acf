"""CS-QCFS: one θ per channel, θ = softplus(p); the shape of p comes from the first input, a file, or the caller."""

import copy
import math

import pytest
import torch
from torch import nn

from snnconv.conversion.preparation import prepare
from snnconv.nn.activations.cs_qcfs import CSQCFS
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.models.mlp import mlp
from snnconv.runtime.checkpoint import load_ann, save_ann
from snnconv.runtime.weights import _renamed, filled
from snnconv.training.fitting import fit

THETA = torch.tensor([0.5, 1.0, 3.0])
MODEL = {
    "_target_": "snnconv.nn.models.mlp.mlp", "num_classes": 2, "input_shape": [1, 2, 2], "hidden": [3],
    "activation": {"_target_": "snnconv.nn.activations.cs_qcfs.CSQCFS", "_partial_": True, "levels": 4, "threshold": 8.0},
}  # fmt: skip


def literal(x: float, p: float, levels: int) -> tuple[float, float, float]:
    """y = θ·clip(floor(Lx/θ + ½), 0, L)/L with θ = log(1 + eᵖ), dy/dx and dy/dp, straight through the floor."""
    theta, slope = math.log1p(math.exp(p)), 1 / (1 + math.exp(-p))
    if x < 0:
        return 0.0, 0.0, 0.0
    if x > theta:
        return theta, 0.0, slope
    q = math.floor(levels * x / theta + 0.5) / levels
    return theta * q, 1.0, (q - x / theta) * slope


@pytest.mark.parametrize("space", [(), (5,), (2, 3)])
def test_is_its_formula_for_every_channel(space):
    activation = CSQCFS(4).double()
    activation.set_threshold(THETA)
    x = (torch.randn(6, 3, *space, dtype=torch.float64) * 2).requires_grad_()
    weights = torch.randn(6, 3, *space, dtype=torch.float64)
    y = activation(x)
    (y * weights).sum().backward()
    gradient = [0.0] * 3
    for n in range(6):
        for c in range(3):
            rows = zip(*(t[n, c].flatten().tolist() for t in (x, y, x.grad, weights)), strict=True)
            for value, output, of_x, weight in rows:
                expected, by_x, by_p = literal(value, activation.p[c].item(), 4)
                assert (output, of_x) == pytest.approx((expected, by_x * weight), abs=1e-9)
                gradient[c] += by_p * weight
    assert activation.p.grad.tolist() == pytest.approx(gradient, abs=1e-9)


def test_the_first_input_gives_the_number_of_channels():
    activation, image = CSQCFS(4, 2.0), torch.randn(2, 3, 4, 4)
    flat = activation(torch.randn(7))  # has no channels
    assert (flat.shape, activation.p.dim()) == ((7,), 0)
    activation = CSQCFS(4, 2.0)
    before, parameter = QCFS(4, activation.threshold.item())(image), activation.p
    assert torch.equal(activation(image), before)
    assert activation.p is parameter  # an optimizer keeps it
    assert activation.p.shape == (3,)
    assert not activation._forward_pre_hooks
    with pytest.raises(ValueError, match="has thresholds for 3 channels, got 2"):
        activation.set_threshold(torch.ones(2))


def test_prints_its_thresholds():
    activation = CSQCFS(4)
    assert "levels=4, threshold=not known yet, channels=not known yet" in repr(activation)
    activation.set_threshold(THETA)
    assert "threshold=0.5 to 3, channels=3" in repr(activation)


@pytest.mark.parametrize("value", [torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, math.nan, 1.0]), torch.ones(1, 3)])
def test_a_threshold_of_every_channel_is_positive(value):
    with pytest.raises(ValueError, match="one positive number for each channel"):
        CSQCFS(4).set_threshold(value)


def trained() -> nn.Module:
    network = mlp(2, [1, 2, 2], lambda: CSQCFS(4, 8.0), hidden=[3]).eval()
    next(m for m in network.modules() if isinstance(m, CSQCFS)).set_threshold(THETA)
    return network


def test_is_saved_and_loaded(tmp_path):
    network, images = trained(), torch.randn(5, 1, 2, 2)
    save_ann(tmp_path, network, MODEL, {})
    for again in (load_ann(tmp_path), filled(copy_without_channels(), tmp_path).eval()):
        assert torch.equal(again(images), network(images))
        assert torch.equal(next(m for m in again.modules() if isinstance(m, CSQCFS)).threshold, THETA)
    plain = copy_without_channels()
    plain.load_state_dict(network.state_dict())
    assert torch.equal(plain.eval()(images), network(images))


def copy_without_channels() -> nn.Module:
    return mlp(2, [1, 2, 2], lambda: CSQCFS(4, 8.0), hidden=[3])


def test_trains_with_an_average_of_the_weights():
    """The average and the optimizer are made for parameters that know their channels."""
    images, labels = torch.randn(32, 4), torch.arange(32) % 2
    model = prepare(
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), levels=4, activation=lambda L: CSQCFS(L)
    )
    fit(model, [(images, labels)] * 8, epochs=2, lr=0.5, ema=0.5, seed=0, verbose=False)
    assert model[1].threshold.shape == (6,)
    assert len(model[1].threshold.unique()) > 1
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images), model(images))


def test_prepare_sets_thresholds_from_images():
    images = torch.randn(200, 4)
    for norm in ([], [nn.BatchNorm1d(6)]):
        net = nn.Sequential(nn.Linear(4, 6), *norm, nn.ReLU(), nn.Linear(6, 2))
        model = prepare(net, levels=4, calibration=images, activation=lambda L: CSQCFS(L))
        theta = prepare(net, levels=4, calibration=images)[1 + len(norm)].threshold
        torch.testing.assert_close(
            model[1 + len(norm)].threshold, theta.detach().expand_as(model[1 + len(norm)].threshold)
        )


@pytest.mark.parametrize("name", ["theta", "thresh"])
def test_weights_of_a_network_with_one_threshold_start_it(name):
    """QCFS weights, also with the names of the published repositories."""
    source = nn.Sequential(nn.Conv2d(1, 3, 3), QCFS(4, 1.5), nn.Flatten(), nn.Linear(12, 2)).state_dict()
    renamed = {key.replace("theta", name): tensor for key, tensor in source.items()}
    network = nn.Sequential(nn.Conv2d(1, 3, 3), CSQCFS(4), nn.Flatten(), nn.Linear(12, 2))
    loaded = _renamed(renamed, network.state_dict())
    network.load_state_dict(loaded)
    torch.testing.assert_close(network[1].threshold, torch.tensor(1.5))
    network(torch.zeros(1, 1, 4, 4))
    torch.testing.assert_close(network[1].threshold, torch.full((3,), 1.5))
    network.load_state_dict(_renamed(renamed, network.state_dict()))
    torch.testing.assert_close(network[1].threshold, torch.full((3,), 1.5))
