"""Fan-out, held against a literal enumeration of spikes and weights."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from networks import Net
from snnconv.analysis.fan_out import LOGITS, Target, fan_out
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


def neurons() -> OverTime:
    return OverTime(IntegrateFire(1.0))


def convolution_pairs(conv: nn.Conv2d, channel: int, y: int, x: int, height: int, width: int) -> int:
    """Number of weights for the neuron at (channel, y, x) of a map height × width, counted pair by pair."""
    (kernel_h, kernel_w), (stride_h, stride_w) = conv.kernel_size, conv.stride
    (pad_h, pad_w), (gap_h, gap_w) = conv.padding, conv.dilation
    rows = (height + 2 * pad_h - gap_h * (kernel_h - 1) - 1) // stride_h + 1
    columns = (width + 2 * pad_w - gap_w * (kernel_w - 1) - 1) // stride_w + 1
    met = 0
    for out in range(conv.out_channels):
        if out // (conv.out_channels // conv.groups) != channel // (conv.in_channels // conv.groups):
            continue
        for row, column, i, j in itertools.product(range(rows), range(columns), range(kernel_h), range(kernel_w)):
            met += (row * stride_h - pad_h + i * gap_h, column * stride_w - pad_w + j * gap_w) == (y, x)
    return met


def enumerated(conv: nn.Conv2d, shape: tuple[int, int, int]) -> torch.Tensor:
    """The same for every neuron of `shape`."""
    places = itertools.product(*map(range, shape))
    return torch.tensor([convolution_pairs(conv, *place, *shape[1:]) for place in places]).view(shape).double()


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
small = st.tuples(st.integers(0, 2), st.integers(0, 2))


@settings(max_examples=40)
@given(kernel=pairs, stride=pairs, padding=small, dilation=pairs, groups=st.sampled_from([1, 2, 4]), size=pairs)
def test_a_spike_meets_the_weights_that_an_enumeration_finds(kernel, stride, padding, dilation, groups, size):
    shape = (4, size[0] + 3, size[1] + 3)
    spans = [gap * (side - 1) + 1 for side, gap in zip(kernel, dilation, strict=True)]
    assume(all(span <= n + 2 * pad for span, n, pad in zip(spans, shape[1:], padding, strict=True)))
    conv = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups)
    targets, reach = fan_out(nn.Sequential(neurons(), conv), shape)
    expected = enumerated(conv, shape)
    assert torch.equal(reach.get("0", {}).get("1", torch.zeros(shape)), expected)
    assert targets[1] == Target("1", macs=int(expected.sum()))


def nonzero(layer: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """Number of outputs of `layer`, whose weights are all different, that change with each input."""
    torch.manual_seed(0)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer.double()(x[None])[0], torch.rand(shape).double())
    return jacobian.flatten(0, -len(shape) - 1).ne(0).sum(0).double()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (6,)),
        (nn.Linear(6, 5), (3, 6)),  # on the last axis of several
        (nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2), (2, 7)),
        (nn.Conv3d(1, 2, 2, padding=1), (1, 3, 4, 2)),
        (nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 3, 4)),
        (nn.Conv2d(2, 3, 3, padding="same", dilation=2), (2, 5, 6)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 6)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_other_weight_layers(layer, shape):
    _, reach = fan_out(nn.Sequential(neurons(), layer), shape)
    assert torch.equal(reach["0"]["1"], nonzero(layer, shape))


# average pooling is folded into what follows it


@settings(max_examples=30)
@given(kernel=pairs, stride=pairs, pad=st.booleans(), ceil=st.booleans(), as_function=st.booleans())
def test_a_spike_reaches_what_its_pooled_cells_reach(kernel, stride, pad, ceil, as_function):
    padding = tuple(side // 2 if pad else 0 for side in kernel)
    shape, conv = (2, 5, 6), nn.Conv2d(2, 3, 3, padding=1)
    window = (kernel, stride, padding, ceil)
    pool = nn.AvgPool2d(*window)
    pooled = tuple(pool(torch.zeros(1, *shape)).shape[1:])
    cells, expected = enumerated(conv, pooled), torch.zeros(shape).double()
    for channel, row, column in itertools.product(*map(range, pooled)):
        for i, j in itertools.product(*map(range, kernel)):
            y, x = row * stride[0] - padding[0] + i, column * stride[1] - padding[1] + j
            if 0 <= y < shape[1] and 0 <= x < shape[2]:
                expected[channel, y, x] += cells[channel, row, column]
    network = Net(
        lambda net, x: net.conv(F.avg_pool2d(net.a(x), *window) if as_function else net.pool(net.a(x))),
        a=neurons(), pool=pool, conv=conv,
    )  # fmt: skip
    targets, reach = fan_out(network, shape)
    assert torch.equal(reach["a"]["conv"], expected)
    assert targets[1].macs == cells.sum()  # the ANN's layer sees cells


@pytest.mark.parametrize("size", [1, 2, 3, 4, (2, 5)])
@pytest.mark.parametrize("as_function", [True, False])
def test_adaptive_pooling_with_cells_of_any_size(size, as_function):
    pool = nn.AdaptiveAvgPool2d(size)
    fc = nn.Linear(2 * math.prod((size, size) if isinstance(size, int) else size), 3)
    network = Net(
        lambda net, x: net.fc((F.adaptive_avg_pool2d(net.a(x), size) if as_function else net.pool(net.a(x))).flatten(1)),
        a=neurons(), pool=pool, fc=fc,
    )  # fmt: skip
    _, reach = fan_out(network, (2, 5, 7))
    assert torch.equal(reach["a"]["fc"], 3 * nonzero(pool, (2, 5, 7)))


@pytest.mark.parametrize(
    ("pool", "shape"), [(nn.AvgPool1d(3, 2, 1), (2, 7)), (nn.AvgPool3d(2), (2, 4, 4, 3)), (nn.AdaptiveAvgPool1d(3), (2, 7))]
)  # fmt: skip
def test_pooling_in_other_dimensions(pool, shape):
    features = pool(torch.zeros(1, *shape)).numel()
    _, reach = fan_out(nn.Sequential(neurons(), pool, nn.Flatten(), nn.Linear(features, 3)), shape)
    assert torch.equal(reach["0"]["3"], 3 * nonzero(pool, shape))


# what a network may do between its neurons, by hand: neurons → target → sum of the fan-out over the neurons

IMAGE = (2, 4, 4)
PATHS = {
    "an identity shortcut": (
        lambda: Net(
            lambda net, x: net.b((lambda s: net.conv(s) + s)(net.a(x))),
            a=neurons(), b=neurons(), conv=nn.Conv2d(2, 2, 1),
        ),
        {"a": {"conv": 64, "b": 32}, "b": {LOGITS: 32}},
    ),
    "a shortcut with weights": (
        lambda: Net(
            lambda net, x: (lambda s: net.b(net.conv(s) + net.short(s)))(net.a(x)),
            a=neurons(), b=neurons(), conv=nn.Conv2d(2, 2, 1), short=nn.Conv2d(2, 2, 1, stride=1),
        ),
        {"a": {"conv": 64, "short": 64}, "b": {LOGITS: 32}},
    ),
    "a shortcut of every second pixel with more channels": (
        lambda: Net(
            lambda net, x: (lambda s: net.b(net.conv(s) + F.pad(s[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))))(net.a(x)),
            a=neurons(), b=neurons(), conv=nn.Conv2d(2, 4, 1, stride=2),
        ),
        {"a": {"conv": 32, "b": 8}, "b": {LOGITS: 16}},
    ),
    "two spike trains before one weight layer": (
        lambda: Net(
            lambda net, x: (lambda s: net.conv(s + net.b(net.inner(s))))(net.a(x)),
            a=neurons(), b=neurons(), inner=nn.Conv2d(2, 2, 1), conv=nn.Conv2d(2, 3, 1),
        ),
        {"a": {"inner": 64, "conv": 96}, "b": {"conv": 96}},
    ),
    "a difference, scaled and shifted": (
        lambda: Net(
            lambda net, x: (lambda s: net.conv(0.5 * (s - net.b(s)) / 3 + 1))(net.a(x)),
            a=neurons(), b=neurons(), conv=nn.Conv2d(2, 3, 1),
        ),
        {"a": {"b": 32, "conv": 96}, "b": {"conv": 96}},
    ),
    "concatenation": (
        lambda: Net(
            lambda net, x: (lambda s: net.conv(torch.cat([s, net.b(s)], 1)))(net.a(x)),
            a=neurons(), b=neurons(), conv=nn.Conv2d(4, 3, 1, groups=1),
        ),
        {"a": {"b": 32, "conv": 96}, "b": {"conv": 96}},
    ),
    "weights used twice": (
        lambda: Net(
            lambda net, x: net.conv(net.b(net.conv(net.a(x)))), a=neurons(), b=neurons(), conv=nn.Conv2d(2, 2, 1)
        ),
        {"a": {"conv": 64}, "b": {"conv": 64}},
    ),
    "spikes that meet the same weights twice": (
        lambda: Net(
            lambda net, x: (lambda s: net.conv(s) + net.conv(s.transpose(2, 3)))(net.a(x)),
            a=neurons(), conv=nn.Conv2d(2, 2, 1),
        ),
        {"a": {"conv": 128}},
    ),
    "a mean, a view of the batch's size": (
        lambda: Net(
            lambda net, x: net.fc((lambda s: s.mean((2, 3)).view(s.size(0), -1))(net.a(x))), a=neurons(), fc=nn.Linear(2, 5)
        ),
        {"a": {"fc": 160}},
    ),
    "batch norm that stays, dropout, copies": (
        lambda: nn.Sequential(
            neurons(), nn.BatchNorm2d(2), nn.Dropout2d(), nn.Upsample(scale_factor=2), nn.ZeroPad2d(1), nn.Conv2d(2, 1, 1)
        ),
        {"0": {"5": 128}},
    ),
    "spikes are the answer": (lambda: nn.Sequential(neurons(), nn.Flatten()), {"0": {LOGITS: 32}}),
}  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_what_lies_between_neurons(name):
    network, expected = PATHS[name]
    _, reach = fan_out(network().eval(), IMAGE)
    found = {source: {path: fan.sum().item() for path, fan in fans.items()} for source, fans in reach.items()}
    assert {source: fans for source, fans in found.items() if fans} == expected


def test_targets_by_hand():
    """Image → conv → a; (conv(a) + a) → b → pooled linear; in the order of computation."""
    network = Net(
        lambda net, x: net.fc(net.pool(net.b((lambda s: net.two(s) + s)(net.a(net.one(x))))).flatten(1)),
        one=nn.Conv2d(2, 3, 3, padding=1), two=nn.Conv2d(3, 3, 1), a=neurons(), b=neurons(), pool=nn.AvgPool2d(2),
        fc=nn.Linear(12, 5),
    )  # fmt: skip
    inside = (2 + 3 + 3 + 2) ** 2  # pixels under the 3×3 windows of a 4×4 image
    targets, _ = fan_out(network, IMAGE)
    assert targets == [
        Target("one", macs=6 * inside, constant=6 * inside),
        Target("a", neurons=48),
        Target("two", macs=9 * 16),
        Target("b", additions=48, neurons=48),
        Target("fc", macs=60),
        Target(LOGITS, neurons=5),
    ]


def test_values_that_are_no_spikes():
    """The image that joins spikes again, weights behind weights, before and after the first neurons."""
    network = Net(
        lambda net, x: net.four(net.three(net.a(net.two(net.one(x))) + x)),
        **{name: nn.Linear(4, 4) for name in ("one", "two", "three", "four")}, a=neurons(),
    )  # fmt: skip
    targets = {target.path: target for target in fan_out(network, (4,))[0]}
    assert (targets["one"].constant, targets["two"].constant, targets["three"].constant) == (16, 16, 16)
    assert targets["three"].varying == 0
    assert targets["four"] == Target("four", macs=16, varying=16)


def test_what_adds_up_before_a_weight_is_one_value_in_the_ann():
    """Values are multiplied once, however many they came from; spikes are not merged."""
    network = Net(
        lambda net, x: (lambda s: net.two(s + net.b(s)))(net.a(net.one(net.pool(x) + net.pool(x)))),
        pool=nn.AvgPool2d(2), one=nn.Conv2d(2, 2, 1), a=neurons(), two=nn.Conv2d(2, 2, 1), b=neurons(),
    )  # fmt: skip
    targets, reach = fan_out(network, IMAGE)
    by_path = {target.path: target for target in targets}
    assert by_path["one"] == Target("one", macs=16, constant=16)
    assert by_path["two"] == Target("two", macs=16)
    assert reach["a"]["two"].sum() == reach["b"]["two"].sum() == 16


def test_a_pooled_shortcut():
    """The ANN adds what the pooled cells hold, the SNN every spike."""
    network = Net(
        lambda net, x: (lambda s: net.b(net.conv(s) + net.pool(s)))(net.a(x)),
        a=neurons(), b=neurons(), conv=nn.Conv2d(2, 2, 2, stride=2), pool=nn.AvgPool2d(2),
    )  # fmt: skip
    targets, reach = fan_out(network, IMAGE)
    assert targets[2] == Target("b", additions=8, neurons=8)
    assert torch.equal(reach["a"]["b"], torch.ones(IMAGE).double())


def test_max_pooling_of_the_image_is_carried():
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.MaxPool2d(2), nn.PReLU(), neurons(), nn.Conv2d(2, 3, 1))
    targets, reach = fan_out(network, IMAGE)
    assert reach["3"]["4"].shape == (2, 2, 2)
    assert [target.macs for target in targets] == [64, 0, 24, 0]


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.Sigmoid(), r"1 \(Sigmoid\)"),
        (nn.MaxPool2d(2), r"1 \(MaxPool2d\)"),
        (nn.ReflectionPad2d(1), r"1 \(ReflectionPad2d\)"),
    ],
)
def test_what_cannot_be_counted_is_named(layer, named):
    with pytest.raises(ValueError, match=f"{named}: operations after it cannot be counted for spikes"):
        fan_out(nn.Sequential(neurons(), layer, nn.Conv2d(2, 1, 1)), IMAGE)


@pytest.mark.parametrize("call", [torch.tanh, lambda x: x.relu()])
def test_calls_that_cannot_be_counted_are_named(call):
    with pytest.raises(ValueError, match=r"the network itself \(calls (tanh|relu)\): operations after it"):
        fan_out(Net(lambda net, x: call(net.a(x)), a=neurons()), IMAGE)


@settings(max_examples=20)
@given(kernel=pairs, stride=pairs, groups=st.sampled_from([1, 2]), seed=st.integers(0, 99))
def test_weights_of_zero_cost_nothing_where_they_are_skipped(kernel, stride, groups, seed):
    """Against an enumeration in which every output channel is a convolution of its own, over the weights that are left."""
    torch.manual_seed(seed)
    conv = nn.Conv2d(4, 4, kernel, stride, padding=1, groups=groups)
    with torch.no_grad():
        conv.weight *= torch.rand_like(conv.weight) < 0.5
    targets, reach = fan_out(nn.Sequential(neurons(), conv), (4, 5, 5), zeros=False)
    expected = torch.zeros(4, 5, 5, dtype=torch.float64)
    for c, y, x in itertools.product(range(4), range(5), range(5)):
        spike = torch.zeros(1, 4, 5, 5, dtype=torch.float64)
        spike[0, c, y, x] = 1
        ones = (conv.weight != 0).double()
        expected[c, y, x] = F.conv2d(spike, ones, None, conv.stride, conv.padding, 1, groups).sum()
    assert torch.equal(reach.get("0", {}).get("1", torch.zeros(4, 5, 5, dtype=torch.float64)), expected)
    assert targets[1].macs == int(expected.sum())
