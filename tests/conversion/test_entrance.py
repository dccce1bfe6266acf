"""Any network enters conversion: the spiking network tends to the network, or the difference is an error in words."""

import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks import Net
from snnconv.conversion.checks import check
from snnconv.conversion.methods import threshold
from snnconv.conversion.rules import largest
from snnconv.nn.graph.canonical import is_canonical
from snnconv.nn.graph.equality import require_equal
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

FROM_RELU = partial(threshold.convert, neuron=IntegrateFire, rule=largest)


def lived_in(norm: nn.Module) -> nn.Module:
    for name in ("running_mean", "bias"):
        nn.init.uniform_(getattr(norm, name), -0.5, 0.5)
    nn.init.uniform_(norm.running_var, 0.2, 2)
    return norm


def conv(inputs: int = 4) -> nn.Conv2d:
    return nn.Conv2d(inputs, 4, 3, padding=1)


def two_names() -> nn.Module:
    layers = [conv(1), lived_in(nn.BatchNorm2d(4)), nn.ReLU(), conv(), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)]
    return Net(lambda net, x: net.chain(x), first=layers[0], blocks=nn.ModuleList(layers), chain=nn.Sequential(*layers))


def between(body, **layers: nn.Module) -> nn.Module:
    """conv → ReLU → `body` → conv → ReLU → linear."""
    return Net(lambda net, x: net.fc(net.c2(body(net, F.relu(net.c1(x)))).relu().flatten(1)),
               c1=conv(1), c2=conv(), fc=nn.Linear(256, 3), **layers)  # fmt: skip


class Frozen(nn.Module):
    """An affine map of constants, computed in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("scale", "mean", "var"):
            self.register_buffer(name, torch.rand(4) + 0.5)

    def forward(self, x):
        return (x - self.mean.view(1, -1, 1, 1)) * (self.scale * self.var.rsqrt()).view(1, -1, 1, 1)


def sequence_first() -> nn.Module:
    def forward(net, x):
        h = x.flatten(1, 2).permute(1, 0, 2)
        return net.out(net.act(net.mix(net.act(net.up(h)))).mean(0))

    return Net(forward, up=nn.Linear(8, 16), act=nn.ReLU(), mix=nn.Linear(16, 16), out=nn.Linear(16, 3))


NETWORKS = {
    "two names": two_names,
    "frozen norm": lambda: between(lambda net, x: net.norm(x), norm=Frozen()),
    "clip": lambda: Net(
        lambda net, x: net.b(F.relu6(net.c(F.hardtanh(5 * net.a(x.flatten(1)), 0.0, 0.5)))),
        a=nn.Linear(64, 16), c=nn.Linear(16, 16), b=nn.Linear(16, 3),
    ),
    "shuffle": lambda: between(lambda net, x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "gain": lambda: between(lambda net, x: x * net.gain.weight.view(1, -1, 1, 1), gain=nn.Linear(4, 1)),
    "split and stack": lambda: between(lambda net, x: torch.stack(x.split(2, 1), 1).flatten(1, 2) - x.sum(1, keepdim=True) / 8),
    "transposed": lambda: between(lambda net, x: x.transpose(2, 3).flip(3)),
    "sequence first": sequence_first,
    "normalized images": lambda: Net(lambda net, x: net.body((x - 0.3) / torch.tensor([0.7])), body=between(lambda net, x: x)),
}  # fmt: skip


@pytest.mark.parametrize("schedule", ["step", pytest.param("layer", marks=pytest.mark.long)])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_the_spiking_network_tends_to_the_network(make, schedule):
    torch.manual_seed(0)
    network, x = make().double().eval(), torch.randn(6, 1, 8, 8, dtype=torch.float64)
    found = check(network, FROM_RELU, [(x, torch.zeros(6))])
    assert found.obstacles == []
    snn = FROM_RELU(network, [(x, None)], simulate={"schedule": schedule})
    with torch.no_grad():
        expected, error = network(x), {}
        for timesteps in (50, 1000):
            error[timesteps] = (snn(x, timesteps).mean(0) - expected).abs().max() / expected.abs().max()
    assert error[1000] < 0.02
    assert error[1000] < error[50]


def test_thresholds_stay_below_a_clip():
    network, x = NETWORKS["clip"](), torch.randn(20, 1, 8, 8)
    snn = FROM_RELU(network, [(x, None)])
    ceilings = [0.5, 6.0]
    assert all(float(neuron.threshold) <= c for neuron, c in zip(snn.neurons().values(), ceilings, strict=True))


REFUSED = {
    "dropout": (lambda net, x: net.b(F.dropout(F.relu(net.a(x)), 0.5)), "is active in evaluation; use F.dropout"),
    "several outputs": (lambda net, x: (net.b(F.relu(net.a(x))), x), "returns a tuple of 2"),
    "noise": (lambda net, x: net.b(F.relu(net.a(x) + torch.rand(4).to(x))), "different outputs for the same images"),
}


@pytest.mark.parametrize(("forward", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_wrong_is_refused_by_check_and_convert(forward, message):
    network, batches = Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4)), [(torch.randn(8, 4), torch.zeros(8))]
    (text,) = map(str, check(network, FROM_RELU, batches).obstacles)
    assert message in text
    with pytest.raises(ValueError, match=re.escape(message)):
        FROM_RELU(network, batches)


def test_a_difference_names_the_first_place():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    other = nn.Sequential(*network[:2], nn.Linear(4, 4), *network[3:])
    with pytest.raises(ValueError, match=r"the output of its graph differs from its forward pass, first at 2$"):
        require_equal(network, other, torch.randn(2, 4))
    require_equal(network, network, torch.randn(2, 4))


def test_a_state_is_an_error():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.fc = 0, nn.Linear(4, 4)

        def forward(self, x):
            self.calls += 1
            return F.relu(self.fc(x)) * self.calls

    network = Counting()
    with pytest.raises(ValueError, match=r"Counting: .*different outputs|Counting: .*output"):
        FROM_RELU(network, [(torch.randn(8, 4), None)])
    assert network.calls == 0


def test_plain_networks_are_taken_as_they_are(exact_network):
    for kind in ("plain", "residual"):
        assert is_canonical(exact_network(kind, nn.ReLU))
    assert not is_canonical(two_names())
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU6())
    assert not is_canonical(network)


def test_an_activation_that_is_never_called_is_left_out():
    """It has no currents from which a threshold could be computed."""
    network = Net(
        lambda net, x: net.b(net.a(net.c(x))), a=nn.ReLU(), b=nn.Linear(4, 2), c=nn.Linear(4, 4), unused=nn.ReLU()
    )
    assert not is_canonical(network)
    assert list(FROM_RELU(network, [(torch.randn(8, 4), None)]).neurons()) == ["a"]


def test_batches_that_can_be_read_once_are_read_whole():
    network = Net(lambda net, x: net.b(F.relu(net.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    batches = [(torch.randn(4, 4) * scale, None) for scale in (1, 10)]
    once, twice = FROM_RELU(network, iter(batches)), FROM_RELU(network, batches)
    assert [n.threshold for n in once.neurons().values()] == [n.threshold for n in twice.neurons().values()]
