"""Errors of networks with max pooling, however it is called: the ANN is measured in the form that was converted."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import snnconv
from snnconv.analysis.counterpart import counterpart
from snnconv.analysis.errors import decompose
from snnconv.analysis.layer_errors import PARTS
from snnconv.conversion.methods import qcfs
from snnconv.data.batches import Batches
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

TS = [1, 2, 8]


class Calls(nn.Module):
    """Two convolutions; `first` and `second` are functions of (network, current) for activation and pooling."""

    def __init__(self, first, second, **modules):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(16, 3)
        self.first, self.second = first, second
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        x = self.second(self, self.conv2(self.first(self, self.conv1(x))))
        return self.head(torch.flatten(x, 1))


def modules(*block):
    """The network of `Calls` in modules; `block` makes the modules after a convolution."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), *(make() for make in block), nn.Conv2d(4, 4, 3, padding=1),
        *(make() for make in block), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def stem():
    """As in ResNet-50: conv, bn, ReLU, max pooling with overlap."""
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.tensor([0.1, -0.1, 0.2, 0]), torch.tensor([0.5, 1, 2, 1])
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, padding=1),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))  # fmt: skip


def same(block, **made):
    return Calls(block, block, **made)


NETWORKS = {
    "modules": lambda: modules(nn.ReLU, lambda: nn.MaxPool2d(2)),
    "modules, pooling first": lambda: modules(lambda: nn.MaxPool2d(2), nn.ReLU),
    "modules, adaptive": lambda: Calls(
        lambda net, x: F.adaptive_max_pool2d(F.relu(x), 4), lambda net, x: net.pool(F.relu(x)), pool=nn.AdaptiveMaxPool2d(2)
    ),
    "calls": lambda: same(lambda net, x: F.max_pool2d(F.relu(x), 2)),
    "calls, pooling first": lambda: same(lambda net, x: F.relu(F.max_pool2d(x, 2))),
    "methods": lambda: same(lambda net, x: F.max_pool2d(x.relu(), 2)),
    "same shape": lambda: Calls(lambda net, x: F.max_pool2d(F.relu(x), 3, 1, 1), lambda net, x: F.max_pool2d(F.relu(x), 4)),
    "pooling is a module": lambda: same(lambda net, x: net.pool(F.relu(x)), pool=nn.MaxPool2d(2)),
    "activation is called twice": lambda: same(lambda net, x: F.max_pool2d(net.act(x), 2), act=nn.ReLU()),
    "all are called twice": lambda: same(lambda net, x: net.pool(net.act(x)), act=nn.ReLU(), pool=nn.MaxPool2d(2)),
    "before and after": lambda: Calls(
        lambda net, x: F.max_pool2d(F.relu(F.max_pool2d(x, 2, 1, 1)), 2), lambda net, x: F.max_pool2d(F.relu(x), 2)
    ),
    "branches": lambda: Calls(
        lambda net, x: torch.cat([F.max_pool2d(y := F.relu(x), 2)[:, :2], F.avg_pool2d(y, 2)[:, 2:]], 1),
        lambda net, x: F.max_pool2d(F.relu(x), 2),
    ),
    "clipped": lambda: same(lambda net, x: F.max_pool2d(F.relu6(x), 2)),
    "stem": stem,
}  # fmt: skip


@pytest.fixture
def images():
    return torch.randint(-16, 17, (24, 1, 8, 8), generator=torch.Generator().manual_seed(1)) / 8


TRAINED = ("modules", "calls", "calls, pooling first", "activation is called twice", "stem")
CASES = [*((name, False) for name in NETWORKS), *((name, True) for name in TRAINED)]


@pytest.mark.parametrize(("name", "trained"), CASES)
def test_parts_add_up_and_accuracies_are_those_of_the_networks(images, name, trained):
    torch.manual_seed(3)
    network = NETWORKS[name]().eval()
    if trained:
        network = snnconv.prepare(network, levels=4, calibration=images).eval()
    with torch.no_grad():
        labels = network(images).argmax(-1)
        labels[:3] = 2 - labels[:3]
        expected = (network(images).argmax(-1) == labels).double().mean().item()
    loader = [(images, labels)]
    snn = snnconv.convert(network, calibration=loader)
    once = counterpart(network, snn, loader)
    for ann in (once, counterpart(once, snn, loader)):
        torch.testing.assert_close(ann(images), network(images), rtol=0, atol=1e-6)
    why = snnconv.explain(network, snn, loader, timesteps=TS)
    assert [layer.path for layer in why.errors.at(8)] == list(snn.neurons())
    for layer in why.errors.layers:
        for figures in (layer.mean, layer.share):
            assert sum(figures[part] for part in PARTS) == pytest.approx(figures["total"], abs=1e-6)
    first = why.errors.at(8)[0]
    assert first.size["propagated"] == pytest.approx(0, abs=1e-10)  # it receives the current of the ANN
    assert why.errors.ann == expected
    accuracies = snnconv.accuracy_over_time(snn, loader, timesteps=8).accuracy
    assert why.errors.snn == {t: accuracies[t] for t in TS}


def test_a_function_has_the_errors_of_the_module(images):
    """F.relu and F.max_pool2d against nn.ReLU and nn.MaxPool2d with the same weights, and a pool before each activation."""
    torch.manual_seed(0)
    plain = modules(nn.ReLU, lambda: nn.MaxPool2d(2)).eval()
    pooled_first = modules(lambda: nn.MaxPool2d(2), nn.ReLU).eval()
    pooled_first.load_state_dict(plain.state_dict())
    calls, weights = NETWORKS["calls"]().eval(), list(plain.state_dict().values())
    calls.load_state_dict(dict(zip(calls.state_dict(), weights, strict=True)))
    loader = [(images, torch.arange(24) % 3)]
    figures = []
    for network in (plain, pooled_first, calls):
        snn = snnconv.convert(network, calibration=loader, method="max_norm")
        errors = decompose(network, snn, loader, TS)
        figures.append([(layer.size, layer.offset_spikes, layer.silent) for layer in errors.layers])
        figures[-1] += [(errors.drops(t), {}, 0) for t in TS]
    for others in figures[1:]:
        for one, other in zip(figures[0], others, strict=True):
            assert one[0] == pytest.approx(other[0], abs=1e-6)
            assert one[1:] == other[1:]


def test_disturbed_images_and_energy(images):
    torch.manual_seed(1)
    network = NETWORKS["calls"]().eval()
    pixels = (images * 16).round().clamp(0, 255).to(torch.uint8)
    batches = Batches(pixels, torch.arange(24) % 3, 8, [0.5], [0.25])
    snn = snnconv.convert(network, calibration=batches)
    why = snnconv.explain(network, snn, batches, TS, disturbances={"none": lambda x, gradient: x + 0 * gradient(x)})
    assert why.robustness["none"] == why.robustness["clean"]
    assert why.robustness["none"]["ann"] == pytest.approx(why.errors.ann)
    assert why.robustness["none"]["snn"] == pytest.approx(why.errors.snn)
    same_energy = snnconv.energy(network, snn, batches, TS)
    assert same_energy.as_dict() == why.energy.as_dict()


def test_another_network_is_refused_by_name(images):
    """With the same names, but pooling elsewhere."""

    def network(pool, activation):
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), activation, pool, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    snn = qcfs.convert(network(nn.MaxPool2d(2), QCFS(4, threshold=1.0)), [], neuron=IntegrateFire)
    with pytest.raises(
        ValueError, match=r"1 receives \[24, 4, 8, 8\], but the neuron there in snn receives \[24, 4, 4, 4\]; pass"
    ):
        decompose(network(nn.Identity(), nn.ReLU()), snn, [(images, torch.zeros(24))], [1])
