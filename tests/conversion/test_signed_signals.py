"""Networks without ReLU: signed neurons in front of the weights that would receive analog values."""

import copy

import pytest
import torch
from torch import nn

from networks import Net
from snnconv.analysis.counterpart import counterpart
from snnconv.analysis.explanation import explain
from snnconv.analysis.fan_out import fan_out
from snnconv.analysis.layer_errors import PARTS
from snnconv.analysis.operations import count_operations
from snnconv.conversion.methods import differential, expectation
from snnconv.conversion.preview import check
from snnconv.conversion.registry import convert, methods
from snnconv.conversion.rules import largest
from snnconv.nn.graph.capture import capture
from snnconv.nn.graph.sites import Attention
from snnconv.spiking.neurons.multi_level import SignedDifferential, SignedMultiLevel
from snnconv.spiking.operators.base import Encoder
from snnconv.spiking.operators.placement import place_operators
from snnconv.spiking.operators.signals import spike_driven
from snnconv.spiking.recording import count_spikes
from snnconv.spiking.tasks import running_mean


def block(net, x):
    x = net.stem(x).flatten(2).transpose(1, 2)
    y = net.norm(x)
    x = x + net.out(net.attention(net.q(y), net.k(y), net.v(y)))
    x = x + net.down(net.gelu(net.up(net.norm2(x))))
    return net.head(x.mean(1))


class Windows(nn.Module):
    """Attention within windows of an image, which are rows of the batch inside the network, and channels last."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 4, 1), nn.Linear(4, 3)
        self.norm, self.attention = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = self.norm(self.stem(x).permute(0, 2, 3, 1))
        x = x.reshape(-1, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.norm(x).reshape(-1, 16, 4).mean(1))


NETWORKS = {
    "transformer": lambda: Net(block, stem=nn.Conv2d(2, 4, 1), norm=nn.LayerNorm(4), q=nn.Linear(4, 4), k=nn.Linear(4, 4),
                               v=nn.Linear(4, 4), attention=Attention(), out=nn.Linear(4, 4), norm2=nn.LayerNorm(4),
                               up=nn.Linear(4, 8), gelu=nn.GELU(), down=nn.Linear(8, 4), head=nn.Linear(4, 3)),
    "convolutions": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4),
                                          nn.Conv2d(4, 4, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    "windows": Windows,
    "relu and gelu": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.GELU(), nn.Flatten(),
                                           nn.Linear(16, 3)),
}  # fmt: skip
METHODS = [expectation.convert, differential.convert]


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]().double().eval()


@pytest.fixture
def images():
    return torch.randn(6, 2, 4, 4, dtype=torch.float64)


@pytest.fixture
def batches(images):
    return [(images, torch.zeros(6).long())]


@pytest.mark.parametrize("method", METHODS)
def test_the_error_vanishes_as_one_over_t(network, images, batches, method):
    snn = method(network, batches, rule=largest, simulate={"schedule": "layer", "chunk": 256})
    means = running_mean(snn(images, 2048))
    with torch.no_grad():
        distance = (means - network(images)).abs().amax((1, 2))
    scaled = {t: t * distance[t - 1].item() for t in (64, 256, 1024, 2048)}
    assert distance[-1] < 0.01
    assert max(scaled.values()) < 20 * (0.1 + scaled[64]), scaled


@pytest.mark.parametrize("method", METHODS)
def test_weights_behind_the_first_neuron_receive_spikes(network, batches, method):
    latency = method(network, batches, rule=largest).latency
    assert not latency.analog_currents
    assert latency.float_operators > 0
    assert (latency.signed, latency.spike_levels) == (True, 8)


@pytest.mark.parametrize("method", METHODS)
def test_schedules_and_early_exit_agree(network, images, batches, method):
    """Windows are rows of the batch, and leave together with their image."""
    snn = method(network, batches, rule=largest, simulate={"schedule": "step"})
    layerwise = method(network, batches, rule=largest, simulate={"schedule": "layer", "chunk": 3})
    whole = snn(images, 6)
    torch.testing.assert_close(layerwise(images, 6), whole, rtol=1e-9, atol=1e-9)
    run = snn.run(images, 6)
    steps = [next(run), run.send(torch.tensor([1, 4])), *run]
    torch.testing.assert_close(torch.cat(steps[1:]), whole[1:, [1, 4]], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(snn(images[2:4], 6), whole[:, 2:4], rtol=1e-9, atol=1e-9)


def test_the_network_with_encoders_computes_the_same(network, images):
    before = copy.deepcopy(network.state_dict())
    graph = capture(network, images)
    placed = place_operators(graph, (nn.ReLU, Encoder))
    assert any(isinstance(module, Encoder) for module in placed.modules())
    assert not any(isinstance(module, Encoder) for module in graph.modules())
    torch.testing.assert_close(placed(images), network(images), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_signal_is_encoded_once_for_all_weights_that_receive_it(images, batches):
    snn = differential.convert(NETWORKS["transformer"]().double(), batches, rule=largest)
    assert [*snn.neurons()] == ["q_encoder", "out_encoder", "up_encoder", "down_encoder", "head_encoder"]


def test_a_convolution_of_a_constant_current_is_computed_once(batches):
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1), nn.GELU(), nn.Flatten(), nn.Linear(16, 3)).double()
    assert [*differential.convert(network, batches, rule=largest).neurons()] == ["4_encoder"]


def test_networks_without_relu_are_differential_by_default():
    network, images = NETWORKS["transformer"]().double(), torch.randn(300, 2, 4, 4, dtype=torch.float64)
    snn = convert(network, images)
    assert snn.method == "differential"
    assert {type(neuron) for neuron in snn.neurons().values()} == {SignedDifferential}
    checked = check(network, images, verbose=False)
    assert (checked.obstacles, checked.method) == ([], "differential")
    assert "SignedDifferential neuron" in str(checked)
    refused = check(network, images, method="mse", verbose=False)
    assert refused.methods == ["differential", "expectation", "spikingjelly_sta"]
    assert methods(capture(network, images)) == ["differential", "expectation", "spikingjelly_sta"]


@pytest.mark.parametrize("share", [0.75])
def test_signed_neurons_by_a_literal_loop(share):
    """±θ, ±θ/2, …: the largest level of which |v| reaches three quarters."""
    currents = torch.randn(40, 1, 7, dtype=torch.float64)
    neuron = SignedMultiLevel(1.5, 3, share)
    out = neuron(currents)
    for n in range(7):
        v = 0.0
        for t, x in enumerate(currents[:, 0, n].tolist()):
            v += x
            level = next((k for k in (1.5, 0.75, 0.375) if abs(v) >= share * k), 0.0)
            spike = level if v > 0 else -level
            assert out[t, 0, n].item() == spike
            v -= spike


def test_energy_counts_what_signed_neurons_drive(images, batches):
    """The head's weights are driven by spikes; products of two signals are floating point."""
    network = NETWORKS["transformer"]().double().eval()
    snn = differential.convert(network, batches, rule=largest)
    layers = {target.path: target for target in fan_out(snn.network, (2, 4, 4))[0]}
    assert layers["head"].varying == 0
    assert layers["head"].macs == 12
    assert layers["attention"].varying == layers["attention"].macs > 0
    placed = counterpart(network, snn, batches)
    assert {*snn.neurons()} <= {path for path, _ in placed.named_modules()}
    assert 0.5 < spike_driven(snn.network, images) < 1


@pytest.mark.parametrize("method", METHODS)
def test_networks_with_signed_neurons_are_explained(network, images, batches, method):
    """Parts of the errors add up, nothing is clipped where θ is the largest value, and all operations are counted."""
    snn = method(network, batches, rule=largest)
    why = explain(network, snn, batches, [4, 16])
    assert [layer.path for layer in why.errors.at(4)] == [*snn.neurons()]
    for layer in why.errors.layers:
        assert sum(layer.mean[part] for part in PARTS) == pytest.approx(layer.mean["total"], abs=1e-12)
        assert layer.size["clipping"] < 1e-12
    worst = {t: max(layer.size["total"] for layer in why.errors.at(t)) for t in (4, 16)}
    assert worst[16] < worst[4]
    assert 0.4 < why.energy.operations.spike_driven <= 1


def test_windows_are_counted_one_by_one(images, batches):
    """Four windows of four pixels: projections on every pixel, products of 4×4×4 in each window, one accumulate for each spike."""
    network = Windows().double().eval()
    snn = differential.convert(network, batches, rule=largest)
    targets, reach = fan_out(snn.network, (2, 4, 4))
    layers = {target.path: target for target in targets}
    assert sum(t.macs for path, t in layers.items() if "out_proj" in path) == 16 * 4 * 4
    products = [t.macs for path, t in layers.items() if "attention" in path and t.functions]
    assert products == [4 * 2 * 4 * 4 * 4]
    counted = count_operations(snn, batches, [3])
    with count_spikes(snn) as counts:
        snn(images, 3)
    for source, fans in reach.items():
        if len(fans) == 1 and len({fan.unique().numel() for fan in fans.values()} | {1}) == 1:
            ((path, fan),) = fans.items()
            spikes = counts[source][:, 0].sum().item() / len(images)
            assert counted.accumulates[3][path] >= spikes * fan.unique().item() > 0
