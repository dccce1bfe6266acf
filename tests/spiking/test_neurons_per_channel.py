"""One threshold a channel: the neuron, and where its amplitudes go."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional
from torch import nn
from torch.nn import functional as F

from snnconv.nn.functional import integrate_fire
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

THETA = torch.tensor([0.5, 1.0, 2.0, 0.25], dtype=torch.float64)
SHAPES = {"features": (), "sequence": (6,), "image": (4, 4), "volume": (2, 3, 2)}


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def currents(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """[T, N, 4, …] = [6, 3, 4, …], around the thresholds."""
    return torch.randint(-64, 128, (6, 3, 4, *shape), generator=torch.Generator().manual_seed(seed)) / 64


# the neuron


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("mode", ["s", "m"])
@given(
    seed=st.integers(0, 1000),
    v_initial=st.sampled_from([0.0, 0.5, 0.75]),
    exponents=st.lists(st.integers(-2, 2), min_size=4, max_size=4),
)
def test_is_one_neuron_for_each_channel(shape, mode, seed, v_initial, exponents):
    theta, current = 2.0 ** torch.tensor(exponents), currents(shape, seed)
    neuron = IntegrateFire(theta, v_initial)
    functional.set_step_mode(neuron, mode)
    output = neuron(current)
    for c in range(4):
        alone = IntegrateFire(theta[c].item(), v_initial)
        functional.set_step_mode(alone, mode)
        same(output[:, :, c], alone(current[:, :, c]))
        same(neuron.node.v[:, c], alone.node.v)


def test_state_carries_over_and_is_reset():
    current, neuron = currents((4, 4)), IntegrateFire(THETA)
    whole = neuron(current)
    for cuts in ((1,), (2, 4)):
        functional.reset_net(neuron)
        same(torch.cat([neuron(chunk) for chunk in current.tensor_split(cuts)]), whole)
    functional.reset_net(neuron)
    same(neuron(current[:, :2]), whole[:, :2])  # another batch size


def test_a_potential_for_each_neuron_meets_a_threshold_for_each_channel():
    """v(0) of the layer's shape, in units of its channel's θ."""
    fractions = torch.randint(-8, 9, (4, 2, 2)).double() / 8
    neuron = IntegrateFire(THETA, fractions)
    neuron(torch.zeros(1, 3, 4, 2, 2, dtype=torch.float64))
    v = fractions * THETA.view(4, 1, 1)
    same(neuron.node.v, (v - THETA.view(4, 1, 1) * (v >= THETA.view(4, 1, 1))).expand(3, 4, 2, 2))


def test_membranes_are_float32_at_least():
    for dtype, wide in {
        torch.bfloat16: torch.float32,
        torch.float32: torch.float32,
        torch.float64: torch.float64,
    }.items():
        neuron = IntegrateFire(THETA)
        assert neuron(currents((4, 4)).to(dtype)).dtype == dtype
        assert neuron.node.v.dtype == wide


@pytest.mark.parametrize("wrong", [[0.5, 0.0], [0.5, -1.0], [0.5, float("nan")], [0.5, float("inf")], [[0.5, 1.0]]])
def test_every_threshold_is_positive(wrong):
    with pytest.raises(ValueError, match="threshold"):
        IntegrateFire(torch.tensor(wrong))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_large_layers_are_fused_to_the_same_numbers(layout, dtype):
    """From 2¹⁵ elements on one compiled kernel serves; the smaller parts take the formula as it is written."""
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(8, 4, 40, 40, generator=generator).to(dtype).to(memory_format=layout)
    v = (
        torch.randn(8, 4, 40, 40, generator=generator)
        .to(torch.promote_types(dtype, torch.float32))
        .to(memory_format=layout)
    )
    theta = torch.tensor([0.3, 0.7, 1.1, 0.9], dtype=v.dtype).view(4, 1, 1)
    assert current.numel() >= 2**15 > current[:4].numel()
    spikes, after = integrate_fire(current, v, theta)
    parts = [integrate_fire(current[part], v[part], theta) for part in (slice(0, 4), slice(4, 8))]
    same(spikes, torch.cat([part[0] for part in parts]))
    same(after, torch.cat([part[1] for part in parts]))
    assert spikes.unique().tolist() == [0, 1]


# its amplitudes in the weights that follow


class Net(nn.Module):
    """conv → neurons of 4 channels → `rest`, a formula of the net and the spikes."""

    def __init__(self, rest, **layers: nn.Module) -> None:
        super().__init__()
        self.conv, self.act, self.rest = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), rest
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.rest(self, self.act(self.conv(x)))


def classify(net, x):
    return net.fc(x.flatten(1))


FOLDED = {
    "convolution": lambda: Net(lambda net, s: classify(net, net.a(s)), a=nn.Conv2d(4, 2, 3), fc=nn.Linear(8, 3)),
    "pooling, then a convolution": lambda: Net(
        lambda net, s: classify(net, net.a(net.pool(s))), pool=nn.AvgPool2d(2), a=nn.Conv2d(4, 2, 1), fc=nn.Linear(8, 3)
    ),
    "two convolutions": lambda: Net(
        lambda net, s: classify(net, net.a(s) + net.b(s)), a=nn.Conv2d(4, 2, 3), b=nn.Conv2d(4, 2, 3), fc=nn.Linear(8, 3)
    ),
    "flattened": lambda: Net(lambda net, s: net.fc(net.flat(s)), flat=nn.Flatten(), fc=nn.Linear(64, 3)),
    "flattened by a call": lambda: Net(lambda net, s: net.fc(torch.flatten(s, 1)), fc=nn.Linear(64, 3)),
    "viewed": lambda: Net(lambda net, s: net.fc(s.view(s.size(0), -1)), fc=nn.Linear(64, 3)),
    "pooled and flattened": lambda: Net(
        lambda net, s: classify(net, net.drop(F.avg_pool2d(s, 2))), drop=nn.Dropout(), fc=nn.Linear(16, 3)
    ),
    "pooled to one": lambda: Net(lambda net, s: classify(net, net.pool(s)), pool=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(4, 3)),
}  # fmt: skip
LEFT = {
    "depthwise": lambda: Net(
        lambda net, s: classify(net, net.a(s)), a=nn.Conv2d(4, 4, 3, groups=4), fc=nn.Linear(16, 3)
    ),
    "groups": lambda: Net(lambda net, s: classify(net, net.a(s)), a=nn.Conv2d(4, 4, 3, groups=2), fc=nn.Linear(16, 3)),
    "one of two is depthwise": lambda: Net(
        lambda net, s: classify(net, net.a(s) + net.b(s)),
        a=nn.Conv2d(4, 4, 3), b=nn.Conv2d(4, 4, 3, groups=4), fc=nn.Linear(16, 3),
    ),
    "an addition": lambda: Net(
        lambda net, s: classify(net, net.a(s) + s), a=nn.Conv2d(4, 4, 3, padding=1), fc=nn.Linear(64, 3)
    ),
    "linear along the width": lambda: Net(lambda net, s: classify(net, net.a(s)), a=nn.Linear(4, 4), fc=nn.Linear(64, 3)),
    "flattened within channels": lambda: Net(
        lambda net, s: classify(net, net.a(net.flat(s))), flat=nn.Flatten(2), a=nn.Linear(16, 4), fc=nn.Linear(16, 3)
    ),
    "channels cut up": lambda: Net(
        lambda net, s: classify(net, net.a(s.reshape(s.size(0), 16, 2, 2))), a=nn.Conv2d(16, 2, 1), fc=nn.Linear(8, 3)
    ),
    "channels put together": lambda: Net(
        lambda net, s: classify(net, net.a(s.reshape(s.size(0), 1, 8, 8))), a=nn.Conv2d(1, 2, 8), fc=nn.Linear(2, 3)
    ),
}  # fmt: skip


def spiking(ann: nn.Module, **simulate) -> SpikingModel:
    return SpikingModel(to_spiking(ann, nn.ReLU, lambda path, site: IntegrateFire(THETA)), simulation=simulate)


@pytest.mark.parametrize("make", [*FOLDED.values(), *LEFT.values()], ids=[*FOLDED, *LEFT])
def test_folding_changes_no_logit(make, make_exact, exact_images):
    ann, images = make_exact(make()).double(), exact_images().double()
    expected = spiking(ann)(images, 7)
    assert expected.ne(expected[0]).any()
    for schedule in ({"schedule": "step"}, {"schedule": "layer", "chunk": 3, "channels_last": True}):
        same(spiking(ann, fold_threshold=True, **schedule)(images, 7), expected)


@pytest.mark.parametrize("make", FOLDED.values(), ids=FOLDED)
def test_amplitudes_go_where_channels_stay_apart(make):
    neuron = spiking(make().eval(), fold_threshold=True).neurons()["act"]
    assert neuron.amplitude == 1.0
    assert neuron.threshold.tolist() == THETA.tolist()


@pytest.mark.parametrize("make", LEFT.values(), ids=LEFT)
def test_amplitudes_stay_where_they_would_be_mixed(make):
    assert spiking(make().eval(), fold_threshold=True).neurons()["act"].amplitude.tolist() == THETA.tolist()


def test_features_of_a_perceptron_are_its_channels(make_exact, exact_images):
    ann = make_exact(nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))).double()
    folded, images = spiking(ann, fold_threshold=True), exact_images().double()
    assert folded.neurons()["2"].amplitude == 1.0
    same(folded(images, 7), spiking(ann)(images, 7))


def test_the_same_threshold_for_all_is_one_threshold(exact_network, exact_images):
    ann, images = exact_network("residual", nn.ReLU).double(), exact_images().double()
    one = to_spiking(ann, nn.ReLU, lambda path, site: IntegrateFire(0.5))
    each = to_spiking(ann, nn.ReLU, lambda path, site: IntegrateFire(torch.full((4,), 0.5)))
    for simulate in ({"schedule": "step"}, {"schedule": "layer", "chunk": 3, "fold_threshold": True}):
        same(SpikingModel(each, simulation=simulate)(images, 7), SpikingModel(one, simulation=simulate)(images, 7))
