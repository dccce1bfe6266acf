"""`prepare`: ReLUs become trainable activations whose thresholds fit the data, in anyone's loop."""

import copy
import pickle

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from snnconv.conversion.finetuning import finetune
from snnconv.conversion.preparation import prepare
from snnconv.conversion.registry import convert
from snnconv.conversion.rules import least_squares
from snnconv.nn.activations.clipped_relu import ClippedReLU
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.tasks import running_mean
from snnconv.training.fitting import fit

pytestmark = pytest.mark.usefixtures("unchecked")  # inputs [N, 64], where annotations say images


class Functional(nn.Module):
    """F.relu after each layer but the last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


def small(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    norms = [nn.BatchNorm1d(64)] if norm else []
    return nn.Sequential(nn.Linear(64, 64), *norms, nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.fixture(scope="module")
def digits():
    """Images [1797, 64] of 0…1, labels, in a random order."""
    data, order = load_digits(), torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.data / 16, dtype=torch.float32)[order], torch.tensor(data.target)[order]


def loader(digits, first=0, last=1400):
    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        TensorDataset(digits[0][first:last], digits[1][first:last]), 64, shuffle=True, generator=generator
    )


def thresholds(network):
    return [site.threshold.item() for site in network.modules() if isinstance(site, QCFS)]


def accuracies(snn, digits, timesteps):
    means = running_mean(snn(digits[0][1400:], timesteps))
    return [(mean.argmax(1) == digits[1][1400:]).double().mean().item() for mean in means]


def train(network, batches, epochs=4, lr=2e-3):
    """The loop of a user: Adam, nothing of ours."""
    optimizer = torch.optim.Adam(network.parameters(), lr)
    network.train()
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return network.eval()


@pytest.mark.parametrize("calibrated", [False, True], ids=["first batch", "calibration"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_a_loop_of_ones_own_gives_a_network_that_is_right_at_once(digits, norm, calibrated):
    """From θ = 8 it was 10 % at T = 1: Adam takes thousands of steps to come down from there."""
    batches = loader(digits)
    network = train(prepare(small(norm), levels=4, calibration=batches if calibrated else None), batches)
    right = accuracies(convert(network), digits, 8)
    assert right[0] > 0.6
    assert right[-1] > 0.85


def test_qcfs_in_a_network_of_ones_own_needs_nothing_else(digits):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64), QCFS(4), nn.Linear(64, 32), QCFS(4), nn.Linear(32, 10))
    right = accuracies(convert(train(network, loader(digits))), digits, 8)
    assert min(right) > 0.85


@pytest.mark.parametrize("settings", [{}, {"lookahead": 5}, {"ema": 0.9}], ids=str)
def test_fit_trains_it_too(digits, settings):
    network = prepare(small(), levels=4)
    history = fit(network, loader(digits), loader(digits, 1400, 1797), epochs=5, lr=0.2, verbose=False, **settings)
    assert history.kept["valid_accuracy"] == max(history["valid_accuracy"]) > 0.85
    assert accuracies(convert(network), digits, 4)[-1] > 0.8


def test_finetune_is_right_at_two_timesteps(digits):
    model = train(small(), loader(digits))
    snn = convert(model, digits[0][:1000], simulation={"schedule": "layer"})
    before = accuracies(snn, digits, 2)[-1]
    for start in (model, snn):
        tuned = finetune(start, loader(digits), timesteps=2, epochs=2, lr=1e-3)
        assert accuracies(tuned, digits, 2)[-1] > max(before, 0.85)
        assert tuned.latency.needs_training == "weights"
        assert tuned.simulation.schedule == ("layer" if start is snn else "auto")
    assert accuracies(snn, digits, 2)[-1] == before


def test_weights_keep_their_names_and_the_model_its_own(digits):
    for model in (small(True), Functional()):
        before = copy.deepcopy(model.state_dict())
        network = prepare(model.train(), levels=4, calibration=digits[0])
        assert network.training
        names = set(network.state_dict()) - set(before)
        assert len(names) == len(thresholds(network))
        assert all(name.endswith("theta") for name in names)
        for name, tensor in before.items():
            assert torch.equal(network.state_dict()[name], tensor)
            assert torch.equal(model.state_dict()[name], tensor)
        assert not any(isinstance(module, QCFS) for module in model.modules())


def test_thresholds_of_a_trained_network_fit_its_activations(digits):
    model, images = train(small(), loader(digits)), digits[0][:500]
    network = prepare(model, levels=4, calibration=images)
    seen = model[1](model[0](images)).detach().flatten()
    assert network[1].threshold.item() == pytest.approx(least_squares(seen, 4).item(), rel=0.1)


def test_the_first_batch_sets_what_is_not_known(digits):
    network = prepare(small(), levels=4)
    assert all(site.threshold.isnan() for site in network.modules() if isinstance(site, QCFS))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(network)))
    network(digits[0][:64])
    first = thresholds(network)
    assert all(0 < theta < 10 for theta in first)
    network(100 * digits[0])
    assert thresholds(network) == first
    assert not any(module._forward_pre_hooks for module in network.modules())
    twin.load_state_dict({**twin.state_dict(), "1.theta": torch.tensor(3.0)})
    twin(digits[0])
    assert thresholds(twin)[0] == 3.0


def test_convert_calibrates_what_is_not_known(digits):
    network = prepare(small(), levels=4)
    with pytest.raises(ValueError, match=r"1: its threshold is not set yet; train .* or pass calibration="):
        convert(network)
    assert convert(network, digits[0])(digits[0][:3], 4).isfinite().all()
    assert all(site.threshold.isnan() for site in network.modules() if isinstance(site, QCFS))


def test_other_activations_and_networks_that_have_them(digits):
    network = prepare(small(), levels=4, calibration=digits[0], activation=ClippedReLU)
    assert [type(site) for site in network if isinstance(site, QCFS)] == [ClippedReLU] * 2
    own = nn.Sequential(nn.Linear(64, 32), QCFS(4, 8.0), nn.Linear(32, 10))
    assert thresholds(prepare(own, calibration=digits[0]))[0] < 4
    assert thresholds(own) == [8.0]
    with pytest.raises(ValueError, match="contains no ReLU that could be replaced"):
        prepare(own)
