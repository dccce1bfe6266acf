"""Networks in whole numbers: equal to the golden model spike for spike, and to the float network where nothing is rounded."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from networks import Net
from snnconv.activations.qcfs import QCFS
from snnconv.golden import simulate
from snnconv.integer import LOGITS, integerize
from snnconv.methods import burst, qcfs, threshold
from snnconv.models.resnet import resnet20
from snnconv.models.vgg import vgg11
from snnconv.neurons.integer import EXACT, IntegerIntegrateFire
from snnconv.neurons.integrate_fire import IntegrateFire
from snnconv.spiking import watched

T = 6


def convert(ann, **simulate_settings):
    return qcfs.convert(ann, [], neuron=IntegrateFire, simulate=simulate_settings)


@pytest.fixture(params=["plain", "residual"])
def snn(request, exact_network):
    return convert(exact_network(request.param, lambda: QCFS(4), seed=3))


@pytest.fixture
def batches(exact_images):
    return [(exact_images(8, seed), torch.arange(8) % 3) for seed in (1, 2)]


def spikes_of(network, images, timesteps: int):
    """Logits and the spikes of every layer, [T, N, …], on the ordinary path."""
    seen: dict[str, list] = {}
    with watched(network.snn, lambda path, spikes: seen.setdefault(path, []).append(spikes.clone())):
        logits = network.snn(images, timesteps)
    return logits, {path: torch.cat(steps) for path, steps in seen.items()}


def assert_equal_to_golden(network, images, timesteps: int = T):
    logits, spikes = spikes_of(network, images, timesteps)
    golden_logits, golden = simulate(network, images.numpy(), timesteps)
    assert np.array_equal(logits.numpy(), golden_logits)
    assert list(spikes) == list(golden)
    for path, own in spikes.items():
        assert np.array_equal(own.numpy(), golden[path]), path
    network.require_exact()
    return logits


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("per_channel", [True, False])
def test_golden_model_and_device_agree(snn, batches, bits, per_channel):
    network = integerize(snn, batches, bits=bits, per_channel=per_channel)
    assert_equal_to_golden(network, batches[0][0])
    for layer in network.layers.values():
        assert torch.equal(layer.integers, layer.integers.round())
        assert layer.integers.abs().max() <= 2 ** (bits - 1) - 1
        assert torch.equal(layer.multiplier, layer.multiplier.round())
    for neuron in network.neurons.values():
        assert (neuron.node.theta == neuron.node.theta.round()).all()


@pytest.mark.parametrize("build", [lambda act: vgg11(10, (3, 32, 32), act), lambda act: resnet20(10, (3, 16, 16), act)])
def test_golden_model_and_device_agree_on_the_models(build):
    torch.manual_seed(0)
    ann = build(lambda: QCFS(4, 1.0))
    for module in ann.modules():  # as training would leave them
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_(0, 0.1)
    images = torch.randn(2, 3, *((32, 32) if "features" in dict(ann.named_children()) else (16, 16)))
    network = integerize(convert(ann.eval()), [(images, torch.zeros(2))])
    assert_equal_to_golden(network, images, 3)


def test_schedules_agree(snn, batches):
    network, images = integerize(snn, batches), batches[0][0]
    expected = network.snn(images, T)
    for settings in (
        {"schedule": "layer"},
        {"schedule": "layer", "chunk": 2},
        {"schedule": "step", "channels_last": True},
    ):
        other = integerize(convert_again(snn, **settings), batches)
        assert torch.equal(other.snn(images, T), expected)


def convert_again(snn, **settings):
    other = copy.deepcopy(snn)
    for name, value in settings.items():
        setattr(other, name, value)
    return other


def test_weights_that_need_no_rounding_give_the_same_spikes(exact_images):
    """Weights k/8 within ±7/8, θ and images in eighths: 8 bits hold them all, so only units change."""
    layers = [
        nn.Conv2d(1, 3, 3, padding=1),
        QCFS(4, 2.0),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 5),
        QCFS(4, 1.0),
        nn.Linear(5, 3),
    ]
    ann = nn.Sequential(*layers).eval()
    generator = torch.Generator().manual_seed(0)
    for layer in (layers[0], layers[4], layers[6]):
        for parameter in layer.parameters():
            parameter.data = torch.randint(-127, 128, parameter.shape, generator=generator) / 64
        layer.weight.data.view(len(layer.weight), -1)[:, 0] = 127 / 64  # the largest of its channel, and of the layer
    images = torch.randint(-127, 128, (20, 1, 4, 4), generator=generator) / 64
    images[0, 0, 0, 0] = 127 / 64
    snn = convert(ann)
    network = integerize(snn, [(images, torch.zeros(20))])
    logits, spikes = spikes_of(network, images, T)
    seen: dict[str, list] = {}
    with watched(snn, lambda path, own: seen.setdefault(path, []).append(own.clone())):
        expected = snn(images, T)
    for path, own in spikes.items():
        assert torch.equal(own, torch.cat(seen[path]))
    torch.testing.assert_close(logits * network.units[LOGITS], expected, rtol=1e-5, atol=1e-2)


def test_more_bits_come_closer(exact_images, exact_network):
    """Mean logits tend to those of the float network."""
    torch.manual_seed(0)
    ann = exact_network("residual", lambda: QCFS(4), seed=5)
    for parameter in ann.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape)
    images = exact_images(64)
    snn, errors = convert(ann), []
    for bits in (2, 4, 8, 12):
        network = integerize(snn, [(images, torch.zeros(64))], bits=bits, image_bits=10)
        mean = (network.snn(images, 16) * network.units[LOGITS]).mean(0)
        errors.append((mean - snn(images, 16).mean(0)).square().mean().item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[3] < errors[1] / 4


def test_widths_hold_what_was_seen(snn, batches):
    network, images = integerize(snn, batches), batches[0][0]
    network.snn(images, T)
    for path, bits in network.widths().items():
        node = network.neurons[path].node
        assert -(2 ** (bits - 1)) <= node.least
        assert node.most <= 2 ** (bits - 1) - 1
        narrower = bits - 1
        assert node.least < -(2 ** (narrower - 1)) or node.most > 2 ** (narrower - 1) - 1


def test_a_membrane_of_few_bits_saturates_on_both_paths(snn, batches):
    images = batches[0][0]
    wide = integerize(snn, batches)
    reference = wide.snn(images, T)
    needed = max(wide.widths().values())
    same = integerize(snn, batches, membrane_bits=needed)
    assert torch.equal(same.snn(images, T), reference)
    least = max(int(neuron.node.theta.max()).bit_length() + 1 for neuron in wide.neurons.values())
    narrow = integerize(snn, batches, membrane_bits=least)
    assert_equal_to_golden(narrow, images)
    assert max(narrow.widths().values()) <= least
    with pytest.raises(ValueError, match=f"membrane_bits={least - 1}"):
        integerize(snn, batches, membrane_bits=least - 1)


def test_one_step_by_hand():
    """θ = 10 from v = 5: 4 → 9; 2 → 11 fires, 1; −20 → −19."""
    neuron = IntegerIntegrateFire(torch.tensor([10.0]), torch.tensor([5.0]))
    spikes = neuron(torch.tensor([4.0, 2.0, -20.0]).view(3, 1, 1))
    assert spikes.flatten().tolist() == [0, 1, 0]
    assert neuron.node.v.item() == -19
    assert (neuron.node.least.item(), neuron.node.most.item()) == (-19, 11)
    narrow = IntegerIntegrateFire(torch.tensor([10.0]), torch.tensor([5.0]), bits=5)  # −16 … 15
    narrow(torch.tensor([100.0, -100.0]).view(2, 1, 1))
    assert narrow.node.v.item() == -16


def act():
    return QCFS(4, 1.0)


CONV = nn.Conv2d(1, 2, 3)
BROKEN = {
    "two weight layers": (lambda: nn.Sequential(CONV, nn.Conv2d(2, 2, 1), act(), nn.Flatten(), nn.Linear(8, 3)), "1: follows"),
    "no weights": (lambda: nn.Sequential(CONV, act(), act(), nn.Flatten(), nn.Linear(8, 3)), "2: receives spikes"),
    "used twice": (lambda: Net(lambda n, x: n.fc(n.b(n.conv(n.a(n.conv(x)))).flatten(1)),
                               conv=nn.Conv2d(1, 1, 3, padding=1), a=act(), b=act(), fc=nn.Linear(16, 3)), "conv: used 2 times"),
    "pooled currents": (lambda: nn.Sequential(CONV, nn.AvgPool2d(2), act(), nn.Flatten(), nn.Linear(2, 3)), r"1 \(AvgPool2d"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_names_what_has_no_counterpart(name, batches):
    build, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        integerize(convert(build().eval()), batches)


def test_refuses_other_neurons_and_no_images(snn, batches, exact_network):
    with pytest.raises(ValueError, match=r"Burst\): whole numbers are made of plain integrate-and-fire"):
        integerize(burst.convert(exact_network("plain"), [], gamma=2), batches)
    with pytest.raises(ValueError, match="there are none"):
        integerize(snn, [])


def test_saturation_is_felt(batches):
    """One neuron that a large current charges faster than it can fire remembers only what its membrane holds."""
    ann = nn.Sequential(nn.Conv2d(1, 1, 1), QCFS(4, 1.0), nn.Flatten(), nn.Linear(16, 2)).eval()
    nn.init.constant_(ann[0].weight, 4.0)
    images = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    wide, narrow = (integerize(convert(ann), [(images, torch.zeros(2))], membrane_bits=bits) for bits in (None, 13))
    for network in (wide, narrow):
        assert_equal_to_golden(network, images)
    assert list(narrow.widths().values()) == [13]
    assert list(wide.widths().values()) > [13]


def test_refuses_what_float32_cannot_hold(snn, batches, exact_network):
    tiny = exact_network("plain", lambda: QCFS(4))
    tiny[0].weight.data *= 1000
    tiny[2].set_threshold(0.001)
    with pytest.raises(ValueError, match="2: a step's current could reach"):
        integerize(convert(tiny), batches)
    network = integerize(snn, batches)
    network.snn(batches[0][0], 2)
    network.require_exact()
    path = next(iter(network.neurons))
    network.neurons[path].node.most = torch.tensor(float(EXACT))
    with pytest.raises(ValueError, match=rf"{path}: its potentials leave"):
        network.require_exact()


def test_thresholds_of_each_channel(exact_network, batches):
    """Where they go into the weights that follow; where an addition needs them, the message says what to do."""
    rule = lambda samples, levels: samples.amax(-1)  # noqa: E731
    plain = threshold.convert(
        exact_network("plain", nn.ReLU), batches, neuron=IntegrateFire, rule=rule, per_channel=True
    )
    assert_equal_to_golden(integerize(plain, batches), batches[0][0])
    residual = threshold.convert(
        exact_network("residual", nn.ReLU), batches, neuron=IntegrateFire, rule=rule, per_channel=True
    )
    with pytest.raises(ValueError, match="use one θ a layer"):
        integerize(residual, batches)
