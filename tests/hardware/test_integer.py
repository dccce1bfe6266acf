"""Integer networks: equal to the golden model spike for spike, and to the float network where nothing is rounded."""

import copy
import doctest
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks import Net
from snnconv.conversion.methods import burst, qcfs, threshold
from snnconv.hardware.export.checking import images_to_compare
from snnconv.hardware.integer import accumulator
from snnconv.hardware.integer.accumulator import FINEST
from snnconv.hardware.integer.golden import simulate
from snnconv.hardware.integer.network import integerize
from snnconv.hardware.integer.neuron import EXACT, IntegerIntegrateFire
from snnconv.hardware.integer.operations import LOGITS, Requantize
from snnconv.hardware.integer.quantizer import STEPS
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.models.resnet import resnet20
from snnconv.nn.models.vgg import vgg11
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.recording import recording

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
    with recording(network.snn, lambda path, spikes: seen.setdefault(path, []).append(spikes.clone())):
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
    images = torch.randn(1, 3, *((32, 32) if "features" in dict(ann.named_children()) else (16, 16)))
    network = integerize(convert(ann.eval()), [(images, torch.zeros(2))])
    assert_equal_to_golden(network, images, 2)


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
    with recording(snn, lambda path, own: seen.setdefault(path, []).append(own.clone())):
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


def test_a_neuron_that_never_runs_has_no_width(batches):
    """Before a simulation no neuron has one; an activation that the forward pass does not call never has one."""
    ann = Net(lambda n, x: n.fc(n.a(n.conv(x)).flatten(1)), conv=CONV, a=act(), unused=act(), fc=nn.Linear(8, 3))
    network = integerize(qcfs.convert(ann.eval(), []), batches)
    assert network.summary()["membrane_bits"] == {}
    network.snn(batches[0][0], 2)
    network.require_exact()
    assert list(network.widths()) == ["a"]


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
    narrower = integerize(snn, batches, membrane_bits=least - 1)  # another unit is chosen, so that θ fits
    assert_equal_to_golden(narrower, images)
    assert max(narrower.widths().values()) <= least - 1
    for bits in (1, 25):
        with pytest.raises(ValueError, match=f"membrane_bits={bits}: must be an integer from 2 to 24"):
            integerize(snn, batches, membrane_bits=bits)


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
    "its own unit": (lambda: Net(lambda n, x: n.fc(n.a(n.one(y := n.conv(x)) + y).flatten(1)), conv=CONV, one=nn.Conv2d(2, 2, 1),
                                 a=act(), fc=nn.Linear(8, 3)), "adds a current to the output of a weight layer"),
    "flattened currents": (lambda: nn.Sequential(CONV, nn.Flatten(), nn.Linear(8, 3), act(), nn.Linear(3, 3)), r"1 \(Flatten"),
    "no weights": (lambda: nn.Sequential(CONV, act(), act(), nn.Flatten(), nn.Linear(8, 3)), "2: receives spikes"),
    "used twice": (lambda: Net(lambda n, x: n.fc(n.b(n.conv(n.a(n.conv(x)))).flatten(1)),
                               conv=nn.Conv2d(1, 1, 3, padding=1), a=act(), b=act(), fc=nn.Linear(16, 3)), "conv: used 2 times"),
    "uneven windows": (lambda: nn.Sequential(CONV, nn.AvgPool2d(2, ceil_mode=True), act(), nn.Flatten(), nn.Linear(2, 3)),
                       r"1 \(AvgPool2d\): only plain or global average pooling becomes a sum"),
    "its own average": (lambda: Net(lambda n, x: n.fc(n.a(n.pool(y := n.conv(x)) + y).flatten(1)), conv=CONV,
                                    pool=nn.AvgPool2d(3, 1, 1), a=act(), fc=nn.Linear(8, 3)), "adds a current to its own average"),
    "images": (lambda: Net(lambda n, x: (n.a(n.conv(x)), x)[1], conv=CONV, a=act()), "receives images without a weight layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_names_what_has_no_counterpart(name, batches):
    build, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        integerize(convert(build().eval()), batches)


def test_refuses_other_neurons_and_no_images(snn, batches, exact_network):
    with pytest.raises(ValueError, match=r"Burst\): only integrate-and-fire"):
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
    with pytest.raises(ValueError, match="2: the current of a step could reach"):
        integerize(convert(tiny), batches)
    network = integerize(snn, batches)
    network.snn(batches[0][0], 2)
    network.require_exact()
    path = next(iter(network.neurons))
    network.neurons[path].node.most = torch.tensor(float(EXACT))
    with pytest.raises(ValueError, match=rf"{path}: its potentials exceed"):
        network.require_exact()


def largest_of_each_channel(samples, levels):
    return samples.amax(-1)


def by_channel(ann, batches):
    return threshold.convert(ann, batches, neuron=IntegrateFire, rule=largest_of_each_channel, per_channel=True)


def shortcut_a() -> nn.Module:
    """Every second pixel, channels padded with zeros."""

    def forward(net, x):
        x = net.a(net.stem(x))
        x = net.c(net.two(net.b(net.one(x))) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))
        return net.fc(x.flatten(1))

    one, two = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=2)
    layers = {"one": one, "two": two, "fc": nn.Linear(24, 3)}
    return Net(forward, stem=nn.Conv2d(1, 4, 3, padding=1), **layers, **{name: nn.ReLU() for name in "abc"}).eval()


def test_thresholds_of_each_channel(exact_network, batches):
    """Folded into the next weights, with additions of spikes, and with elements moved before an addition."""
    torch.manual_seed(0)
    for ann in (exact_network("plain", nn.ReLU), exact_network("residual", nn.ReLU), shortcut_a()):
        for parameter in ann.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)  # so that nothing is just at a threshold
        snn = by_channel(ann, batches)
        network = integerize(snn, batches)
        assert_equal_to_golden(network, batches[0][0])
        assert away(network, snn, batches[0][0]) < 0.01


def away(network, snn, images) -> float:
    """Mean square by which mean logits differ, as a part of their variance."""
    expected = snn(images, 16).mean(0)
    mean = (network.snn(images, 16) * network.units[LOGITS]).mean(0)
    return ((mean - expected).square().mean() / expected.var()).item()


def test_refuses_thresholds_of_each_channel_in_another_order(batches):
    ann = Net(
        lambda n, x: n.fc((y := n.a(n.conv(x))).reshape(-1, 36) + n.b(n.lin(y.flatten(1)))),
        conv=nn.Conv2d(1, 4, 2), a=nn.ReLU(), lin=nn.Linear(36, 36), b=nn.ReLU(), fc=nn.Linear(36, 3),
    ).eval()  # fmt: skip
    with pytest.raises(ValueError, match=r"use one θ for each layer|one for each channel without weights"):
        integerize(by_channel(ann, batches), batches)


def conv(*sizes: int, rank: tuple[int, int] = (3, 3), **settings) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(*sizes, rank, padding=(rank[0] // 2, rank[1] // 2), **settings)


def headed(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, act(), nn.Flatten(), nn.Linear(64, 3))


IN_A_ROW = {
    "halves": lambda: headed(conv(1, 3, rank=(3, 1), bias=False), conv(3, 4, rank=(1, 3))),
    "behind spikes": lambda: headed(conv(1, 6), act(), conv(6, 2, rank=(1, 1), bias=False), conv(2, 4, rank=(1, 1))),
    "depthwise-pointwise": lambda: headed(conv(1, 4), act(), conv(4, 8, groups=4), nn.Identity(), conv(8, 4, rank=(1, 1))),
    "pointwise-depthwise": lambda: headed(conv(1, 4, rank=(1, 1)), nn.Dropout(), conv(4, 4, groups=4)),
    "linear-linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), act(), nn.Linear(8, 3, bias=False), nn.Linear(3, 8),
                                           act(), nn.Linear(8, 2, bias=False), nn.Linear(2, 3)),
    "three": lambda: headed(conv(1, 3), conv(3, 3), conv(3, 4)),
    "read twice, added": lambda: Net(lambda n, x: n.head(n.b(y := n.conv(n.a(n.stem(x)))) + n.c(y) + n.other(n.d(x))),
                                     stem=conv(1, 4), a=act(), conv=conv(4, 3), b=conv(3, 4, rank=(1, 1)), c=conv(3, 4),
                                     d=conv(1, 4), other=act(), head=headed()),
}  # fmt: skip


def in_a_row(name: str):
    """With weights of their own for every test."""
    torch.manual_seed(1)
    ann = IN_A_ROW[name]().eval()
    for module in ann.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
            module.weight.data *= 2
    return convert(ann)


@pytest.mark.parametrize("settings", [{"bits": 8}, {"bits": 4, "per_channel": False}, {"bits": 2, "membrane_bits": 24}])
@pytest.mark.parametrize("name", IN_A_ROW)
def test_weight_layers_in_a_row(name, settings, batches):
    network = integerize(in_a_row(name), batches, **settings)
    assert network.requantized
    made = {module for module in network.snn.modules() if isinstance(module, Requantize)}
    assert len(made) == sum(bits is not None for bits in network.requantized.values())
    assert_equal_to_golden(network, batches[0][0])
    for module in made:
        assert module.multiplier.max() < 2**31
        assert module.multiplier.min() >= 1


@pytest.mark.parametrize("name", IN_A_ROW)
def test_more_bits_come_closer_in_a_row(name, exact_images):
    """As close as the image's own rounding, which is that of the network without rows as well."""
    images, snn = exact_images(64), in_a_row(name)
    batches = [(images, torch.zeros(64))]
    errors = [away(integerize(snn, batches, bits=bits, image_bits=10), snn, images) for bits in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.003


def test_halves_go_up():
    """(x·3 + 2) >> 2: 3 → 2.25 → 2, 2 → 1.5 → 2, −2 → −1.5 → −1, −3 → −2.25 → −2."""
    requantize = Requantize(torch.tensor([3.0, 1.0]), 2)
    x = torch.tensor([[3.0, 6.0], [2.0, -6.0], [-2.0, 5.0], [-3.0, -1.0]])
    assert requantize(x).tolist() == [[2, 2], [2, -1], [-1, 1], [-2, 0]]
    large = torch.tensor([[2.0**24 - 1, 1.0]])  # products that float32 does not hold
    assert Requantize(torch.tensor([127.0, 1.0]), 7)(large)[0, 0] == (127 * (2**24 - 1) + 64) >> 7


def test_currents_go_on_unrounded_where_they_fit(batches):
    """Weights −1, 0, 1 and few of them: currents are small integers, and nothing is lost by passing them on."""
    ann = nn.Sequential(nn.Conv2d(1, 2, 1), act(), nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 3, padding=1, groups=2), act(),
                        nn.Flatten(), nn.Linear(32, 3)).eval()  # fmt: skip
    for layer in (ann[2], ann[3]):
        layer.weight.data = torch.randint(-1, 2, layer.weight.shape).float()
        layer.weight.data.view(2, -1)[:, 0] = 1
    ann[3].bias.data.zero_()
    snn = convert(ann)
    network = integerize(snn, batches, bits=2)
    assert network.requantized == {"3": None}
    assert not [module for module in network.snn.modules() if isinstance(module, Requantize)]
    assert_equal_to_golden(network, batches[0][0])


def test_refuses_rows_that_float32_cannot_hold(batches):
    snn = in_a_row("halves")
    snn.neurons()["2"].threshold = 1e-6
    with pytest.raises(ValueError, match=r"2: the current of a step could reach \S+ units, .* use fewer bits"):
        integerize(snn, batches)


def test_one_current_for_several_neurons(batches):
    """As in networks that activate before they convolve: a stream to which blocks add, read by many."""

    def forward(net, x):
        x = net.stem(x)
        x = x + net.conv1(net.a(x))
        x = x + net.conv2(net.b(x))
        return net.fc(net.c(x).flatten(1))

    layers = {
        "stem": nn.Conv2d(1, 4, 3, padding=1),
        "conv1": nn.Conv2d(4, 4, 3, padding=1),
        "conv2": nn.Conv2d(4, 4, 1),
    }
    sites = {"a": QCFS(4, 1.0), "b": QCFS(4, 2.0), "c": QCFS(4, 0.5)}
    snn = convert(Net(forward, **layers, **sites, fc=nn.Linear(64, 3)).eval())
    far = copy.deepcopy(snn)
    far.neurons()["b"].threshold = 1e4
    with pytest.raises(ValueError, match=r"b: its θ is \S+ units, because it shares a current"):
        integerize(far, batches)
    network = integerize(snn, batches)
    assert torch.equal(network.units["a"], network.units["c"])
    assert_equal_to_golden(network, batches[0][0])
    assert away(network, snn, batches[0][0]) < 0.01


# widths that are too small, or too large, are named


def classifier(exact_network):
    """Weights that are no multiples of anything, so that every bit matters."""
    torch.manual_seed(0)
    ann = exact_network("plain", lambda: QCFS(4), seed=5)
    for parameter in ann.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return convert(ann)


def test_images_of_many_bits_keep_the_weights_or_are_refused(exact_network, exact_images):
    """θ has up to 2^18 units where an image comes in; with 16 bits even these hide every weight."""
    snn, images = classifier(exact_network), exact_images(32)
    batches = [(images, torch.zeros(32))]
    errors = []
    for bits in range(4, 17):
        try:
            network = integerize(snn, batches, image_bits=bits)
        except ValueError as error:
            assert bits > 10
            largest = int(re.search(r"use image_bits=(\d+) or fewer", str(error)).group(1))
            assert 10 <= largest < bits
            integerize(snn, batches, image_bits=largest)
            continue
        assert_equal_to_golden(network, images[:4])
        errors.append(away(network, snn, images))
    assert min(errors) < errors[0] / 4
    assert max(errors) < 2 * errors[0]  # no width that is accepted is much worse than 4 bits
    with pytest.raises(ValueError, match=r"the weights before it change by \d+ % when rounded"):
        integerize(snn, batches, image_bits=16)


def test_a_finer_unit_leaves_room_for_negative_currents(exact_network, exact_images):
    """64 steps of the largest negative current that calibration images cause stay within 2^24."""
    snn, images = classifier(exact_network), exact_images(32)
    network = integerize(snn, [(images, torch.zeros(32))], image_bits=12)
    network.snn(images, STEPS)
    network.require_exact()
    first = next(iter(network.neurons.values()))
    assert first.node.theta.max() > FINEST


@pytest.mark.parametrize("bits", [8, 4])
def test_the_unit_is_chosen_so_that_narrow_membranes_hold_the_threshold(bits, exact_network, exact_images):
    snn, images = classifier(exact_network), exact_images(32)
    batches = [(images, torch.zeros(32))]
    refused = []
    for width in range(4, 25):
        try:
            network = integerize(snn, batches, bits=bits, image_bits=4, membrane_bits=width)
        except ValueError as error:
            refused.append(
                (width, int(re.search(rf"membrane_bits={width}: this layer needs at least (\d+)", str(error)).group(1)))
            )
            continue
        assert_equal_to_golden(network, images[:4])
        assert max(neuron.node.theta.max() for neuron in network.neurons.values()) <= 2 ** (width - 1) - 1
        assert max(network.widths().values()) <= width
    assert refused
    assert len(refused) < 10  # 13 bits and more always fit here
    assert all(width < needed <= 14 for width, needed in refused)


def test_pixels_that_are_not_finite_are_named(snn, batches):
    broken = batches[0][0].clone()
    broken[3, 0, 1, 1] = torch.nan
    with pytest.raises(ValueError, match="calibration batch 1: contains NaN or infinite pixels"):
        integerize(snn, [batches[0], (broken, torch.zeros(8))])
    with pytest.raises(ValueError, match="images contain NaN or infinite pixels"):
        simulate(integerize(snn, batches), broken.numpy(), T)
    with pytest.raises(ValueError, match="test image 3 contains NaN or infinite pixels"):
        images_to_compare([(broken, None)], 5)


def test_the_worked_example_runs():
    outcome = doctest.testmod(accumulator)
    assert (outcome.failed, outcome.attempted > 0) == (0, True)
