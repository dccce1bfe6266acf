"""Networks with operators: where they are placed, how a converted network tends to its ANN, which class it belongs to."""

import copy

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from networks import Net
from snnconv.conversion.methods import differential, expectation
from snnconv.conversion.methods.qcfs import convert as qcfs
from snnconv.conversion.methods.threshold import convert
from snnconv.conversion.rules import largest
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.sites import Attention, BoundedReLU, Elementwise, MatMul, Product
from snnconv.spiking.latency import Latency, latency_class
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.operators import choice
from snnconv.spiking.operators.base import Site
from snnconv.spiking.operators.max_count import MaxCount
from snnconv.spiking.operators.placement import place_operators
from snnconv.spiking.operators.running_mean import RunningMean
from snnconv.spiking.operators.winner import Winner
from snnconv.spiking.tasks import running_mean as mean_over_time


def conv(before=4, after=4):
    return nn.Conv2d(before, after, 3, padding=1)


def gate(net, x):
    x = net.act(net.stem(x))
    return net.head(net.flat(net.last(net.conv(net.product(x, net.gate(net.squeeze(x)))))))


def attention(net, x):
    x = net.act(net.stem(x)).flatten(2).transpose(1, 2)
    x = net.norm(x)
    x = net.last(net.attention(net.q(x), net.k(x), net.v(x)))
    return net.head(net.flat(x))


def matmul(net, x):
    x = net.act(net.stem(x)).flatten(2)
    x = net.last(net.matmul(net.softmax(net.scores(x)), net.value(x)))
    return net.head(net.flat(x))


def plain(*layers):
    return lambda: nn.Sequential(conv(2), nn.ReLU(), *layers, nn.Flatten(), nn.LazyLinear(3))


HEAD = {"act": nn.ReLU(), "last": nn.ReLU(), "flat": nn.Flatten()}
NETWORKS = {
    "max pooling": plain(conv(), nn.ReLU(), nn.MaxPool2d(3, 2, 1), conv(), nn.ReLU()),
    "max pooling of currents": plain(conv(), nn.MaxPool2d(2), nn.ReLU()),
    "max pooling in the stem": plain(nn.MaxPool2d(2), conv(), nn.ReLU()),
    "gelu": plain(conv(), nn.GELU(), conv(), nn.ReLU()),
    "silu, group norm": plain(conv(), nn.GroupNorm(2, 4), nn.SiLU(), conv(), nn.ReLU()),
    "hardswish": plain(conv(), nn.Hardswish(), conv(), nn.ReLU()),
    "leaky": plain(conv(), nn.LeakyReLU(0.1), nn.LPPool2d(2, 2), conv(), nn.ReLU()),
    "gate": lambda: Net(gate, **HEAD, stem=conv(2), conv=conv(), gate=nn.Sigmoid(), product=Product(), head=nn.LazyLinear(3),
                        squeeze=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))),
    "attention": lambda: Net(attention, **HEAD, stem=conv(2), norm=nn.LayerNorm(4), q=nn.Linear(4, 4), k=nn.Linear(4, 4),
                             v=nn.Linear(4, 4), attention=Attention(), head=nn.LazyLinear(3)),
    "matmul": lambda: Net(matmul, **HEAD, stem=conv(2), scores=nn.Linear(16, 4), softmax=nn.Softmax(-1), value=nn.Linear(16, 8),
                          matmul=MatMul(), head=nn.LazyLinear(3)),
}  # fmt: skip
SETTINGS = {"neuron": IntegrateFire, "rule": largest}


@pytest.fixture
def images():
    return torch.randn(6, 2, 4, 4, dtype=torch.float64)


def build(name):
    """The network, with weights that depend on the test's seed alone."""
    network = copy.deepcopy(NETWORKS[name]()).double().eval()
    network(torch.zeros(2, 2, 4, 4, dtype=torch.float64))  # sizes of lazy layers
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network


@pytest.fixture(params=NETWORKS)
def ann(request):
    return build(request.param)


@pytest.fixture
def batches(images):
    return [(images, torch.zeros(6).long())]


@pytest.mark.parametrize("choose", [choice.auto, pytest.param(choice.running_mean, marks=pytest.mark.long)])
def test_the_error_vanishes_as_one_over_t(ann, images, batches, choose):
    """In float64, with θ at the largest activation, nothing is clipped; what is left is what potentials still hold."""
    snn = convert(ann, batches, operators=choose, **SETTINGS, simulate={"schedule": "layer", "chunk": 256})
    means = mean_over_time(snn(images, 4096))
    with torch.no_grad():
        distance = (means - ann(images)).abs().amax((1, 2))
    scaled = {t: t * distance[t - 1].item() for t in (64, 256, 1024, 4096)}
    assert distance[-1] < 0.02
    assert max(scaled.values()) < 20 * (0.1 + scaled[64]), scaled


def test_the_winner_tends_to_max_pooling(images, batches):
    ann = build("max pooling")
    snn = convert(ann, batches, operators=choice.winner, **SETTINGS, simulate={"schedule": "layer", "chunk": 256})
    assert [type(o) for o in snn.operators().values()] == [Winner]
    with torch.no_grad():
        distance = (mean_over_time(snn(images, 2048)) - ann(images)).abs().amax((1, 2))
    assert distance[-1] < distance[7] / 3


def test_schedules_give_the_same(ann, images, batches):
    snn = convert(ann, batches, **SETTINGS, simulate={"schedule": "step"})
    layerwise = convert(ann, batches, **SETTINGS, simulate={"schedule": "layer", "chunk": 3})
    torch.testing.assert_close(layerwise(images, 10), snn(images, 10), rtol=1e-9, atol=1e-9)


def test_the_network_stays_as_it_was(ann, images, batches):
    text, before = repr(ann), copy.deepcopy(ann.state_dict())
    convert(ann, batches, **SETTINGS)(images, 4)
    assert repr(ann) == text
    assert all(torch.equal(before[name], value) for name, value in ann.state_dict().items())


def test_samples_that_leave_change_nothing(ann, images, batches):
    snn = convert(ann, batches, **SETTINGS, simulate={"schedule": "step"})
    whole, run = snn(images, 6), snn.run(images, 6)
    steps = [next(run), run.send(torch.tensor([1, 4]))]
    steps += list(run)
    rest = torch.cat(steps[1:])
    torch.testing.assert_close(rest, whole[1:, [1, 4]], rtol=1e-9, atol=1e-9)


def placed(network, choose=choice.auto, kinds=nn.ReLU):
    network = place_operators(network, kinds, choose)
    return {path: type(m.operator) for path, m in network.named_modules() if isinstance(m, Site)}, network


def test_max_pooling_in_the_stem_moves_before_the_neuron(images):
    network = nn.Sequential(conv(2), nn.ReLU(), nn.MaxPool2d(2), conv(), nn.ReLU()).double()
    sites, moved = placed(network)
    assert sites == {}
    assert [str(node.target) for node in moved.graph.nodes][1:4] == ["0", "2", "1"]
    torch.testing.assert_close(moved(images), network(images), rtol=0, atol=0)


def test_max_pooling_of_currents_moves_behind_the_neuron(images):
    network = nn.Sequential(conv(2), nn.ReLU(), conv(), nn.MaxPool2d(2), nn.ReLU(), conv()).double()
    sites, moved = placed(network)
    assert sites == {"3": MaxCount}
    assert [str(node.target) for node in moved.graph.nodes][3:6] == ["2", "4", "3"]
    torch.testing.assert_close(moved(images), network(images), rtol=0, atol=0)


def test_an_activation_that_others_read_does_not_move():
    network = Net(lambda net, x: (y := net.act(net.conv(x))).flatten(1).sum(1) + net.pool(y).flatten(1).sum(1),
                  conv=conv(2), act=nn.ReLU(), pool=nn.MaxPool2d(2))  # fmt: skip
    assert placed(network)[0] == {"pool": MaxCount}


def test_families():
    network = nn.Sequential(
        conv(2), nn.ReLU(), conv(), nn.ReLU(), nn.MaxPool2d(2), conv(), nn.GELU(), conv(), nn.ReLU()
    )
    assert placed(network)[0] == {"4": MaxCount, "6": RunningMean}
    assert placed(network, choice.running_mean)[0] == {"4": RunningMean, "6": RunningMean}
    assert placed(network, choice.winner)[0] == {"4": Winner, "6": RunningMean}
    assert placed(network, choice.none)[0] == {}


def test_a_network_without_operators_is_not_even_copied():
    network = nn.Sequential(conv(2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    assert placed(network)[1] is network


@pytest.mark.parametrize(
    ("name", "choose", "declared"),
    [
        ("max pooling", choice.auto, (0, False)),
        ("max pooling in the stem", choice.auto, (0, False)),
        ("max pooling of currents", choice.auto, (0, False)),
        ("max pooling", choice.winner, (0, False)),
        ("max pooling", choice.running_mean, (1, True)),
        ("gelu", choice.auto, (1, True)),
        ("silu, group norm", choice.auto, (2, True)),
        ("gate", choice.auto, (2, True)),
        ("attention", choice.auto, (2, True)),
        ("matmul", choice.auto, (2, False)),
    ],
)
def test_the_class_is_declared(name, choose, declared, images, batches):
    network = build(name)
    latency = convert(network, batches, operators=choose, **SETTINGS).latency
    assert (latency.float_operators, latency.analog_currents) == declared
    assert (latency_class(latency.as_dict()) == "plain") == (declared == (0, False))


def test_pooling_of_sums_is_not_driven_by_spikes(images, batches):
    """Behind a shortcut, a window holds spikes of two amplitudes."""
    network = Net(lambda net, x: net.head(net.pool((y := net.act(net.stem(x))) + net.second(net.conv(y))).flatten(1)),
                  stem=conv(2), act=nn.ReLU(), conv=conv(), second=nn.ReLU(), pool=nn.MaxPool2d(2),
                  head=nn.Linear(16, 3))  # fmt: skip
    latency = convert(network.double(), batches, **SETTINGS).latency
    assert (latency.float_operators, latency.analog_currents) == (1, True)


def test_results_of_older_versions_count_as_driven_by_spikes():
    old = {
        key: value for key, value in Latency().as_dict().items() if key not in ("float_operators", "analog_currents")
    }
    assert latency_class(old) == "plain"
    assert (
        latency_class(Latency(float_operators=2, analog_currents=True).as_dict())
        == "2 float operators, analog currents"
    )


def test_max_counts_emit_spikes(images, batches):
    network = build("max pooling")
    snn = convert(network, batches, **SETTINGS, simulate={"schedule": "step"})
    (operator,), seen = snn.operators().values(), []
    operator.register_forward_hook(lambda module, inputs, output: seen.append(output))
    snn(images, 8)
    theta = snn.neurons()["3"].threshold
    assert len(seen) == 8
    assert set(torch.cat(seen).unique().tolist()) == {0.0, theta}


class Wave(nn.Module):
    def forward(self, x):
        return x.sin()


def test_a_function_of_the_user_may_be_named(images, batches, monkeypatch):
    monkeypatch.setattr(choice, "EXTRA", [])
    network = nn.Sequential(
        conv(2), nn.ReLU(), conv(), Wave(), conv(), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).double()
    captured = convert(network, batches, **SETTINGS).operators()["3"]
    assert isinstance(captured.function, Elementwise)
    choice.operator(Wave)
    named = convert(network, batches, **SETTINGS).operators()["3"]
    assert type(named) is type(captured) is RunningMean
    assert isinstance(named.function, Wave)


def test_a_layer_that_is_called_twice_is_two_operators(batches):
    network = Net(lambda net, x: net.head(net.pool(net.second(net.conv(net.pool(net.act(net.stem(x)))))).flatten(1)),
                  stem=conv(2), act=nn.ReLU(), pool=nn.MaxPool2d(2), conv=conv(), second=nn.ReLU(),
                  head=nn.Linear(4, 3))  # fmt: skip
    assert len(convert(network.double(), batches, **SETTINGS).neurons()) == 2


def test_a_family_is_chosen_in_the_configuration(compose_config, any_operators, images, batches):
    network = nn.Sequential(
        conv(2),
        QCFS(4, 1.0),
        conv(),
        QCFS(4, 1.0),
        nn.MaxPool2d(2),
        conv(),
        QCFS(4, 1.0),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    method = instantiate(compose_config(f"operators={any_operators}").method)
    if any_operators == "none":
        with pytest.raises(ValueError, match=r"4 \(MaxPool2d\): no operator replaces it; choose operators=auto"):
            method(network, [])
    else:
        assert len(method(network, []).operators()) == 1


def test_qcfs_with_max_pooling_keeps_its_counts(images):
    """Neurons of constant current fire as often as QCFS says at T = L; the largest count is then that of the ANN."""
    network = (
        nn.Sequential(conv(2), QCFS(4, 1.0), nn.AvgPool2d(1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
        .double()
        .eval()
    )
    snn = qcfs(network, [], neuron=IntegrateFire)
    with torch.no_grad():
        torch.testing.assert_close(snn(images, 4).mean(0), network(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", [expectation.convert, differential.convert])
def test_signed_neurons_of_several_levels_tend_to_the_ann(method, ann, images, batches):
    """Their class says what they send: up to 2^(n − 1) times the smallest level, of either sign."""
    snn = method(ann, batches, rule=largest, simulate={"schedule": "layer", "chunk": 256})
    means = mean_over_time(snn(images, 1024))
    with torch.no_grad():
        distance = (means - ann(images)).abs().amax((1, 2))
    assert distance[-1] < 0.02
    assert distance[-1] < distance[7]
    assert (snn.latency.signed, snn.latency.spike_levels) == (True, 8)


@pytest.mark.parametrize("activation", [lambda: QCFS(16, 0.3), lambda: BoundedReLU(0.3)], ids=["QCFS", "clipped ReLU"])
@pytest.mark.parametrize("method", [expectation.convert, differential.convert])
def test_activations_that_clip_still_clip(method, activation, images, batches):
    """Pre-activations far above the clip, so that a neuron without one would be far off."""
    torch.manual_seed(0)
    network = (
        nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 8), activation(), nn.Linear(8, 3)).double().eval()
    )
    network[1].weight.data *= 8
    snn = method(network, batches, rule=largest)
    with torch.no_grad():
        expected = network(images)
    error = (mean_over_time(snn(images, 512))[-1] - expected).abs().max()
    assert error < 0.05 * expected.abs().max()


def test_pooling_of_differences_is_no_pooling_of_spikes(images, batches):
    """Its output is encoded as spikes again."""
    latency = differential.convert(build("max pooling"), batches, rule=largest).latency
    assert (latency.float_operators, latency.analog_currents) == (1, False)
