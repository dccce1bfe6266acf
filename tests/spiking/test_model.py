"""The clock: every schedule emits the same spikes as the slowest and plainest simulation one can write.

Weights, images and thresholds have few bits (`make_exact`), so equality means equality.
"""

import copy
import gc

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from networks import Net
from snnconv.conversion.methods.parallel import convert as parallel
from snnconv.conversion.methods.qcfs import convert
from snnconv.conversion.registry import convert as by_name
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.rewrite import replace_modules
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.recording import count_spikes
from snnconv.spiking.simulation import Timing
from snnconv.spiking.tasks import running_mean


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def spiking(ann: nn.Module, **simulate) -> SpikingModel:
    return convert(ann, [], neuron=IntegrateFire, simulate=simulate)


class Literal(nn.Module):
    """v += x;  s = 1[v ≥ θ];  v −= θ·s."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.threshold = activation.threshold.item()
        self.v = self.threshold / 2

    def forward(self, x):
        self.v = self.v + x
        spikes = (self.v >= self.threshold).to(x.dtype)
        self.v = self.v - self.threshold * spikes
        return self.threshold * spikes


@torch.no_grad()
def simulate_literally(ann: nn.Module, images: torch.Tensor, timesteps: int) -> torch.Tensor:
    """The whole network once a timestep; nothing folded, cached or fused."""
    network = replace_modules(ann, QCFS, Literal).eval()
    return torch.stack([network(images) for _ in range(timesteps)])


def act() -> QCFS:
    return QCFS(4, 8.0)


def conv(channels: int = 1, width: int = 2) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1)


def tied(network: nn.Sequential) -> nn.Sequential:
    """Layers 3 and 5 have one weight between them."""
    network[5].weight = network[3].weight
    return network


ODD = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), act(), nn.Linear(8, 8), act(), nn.Linear(8, 3)),
    "neurons see the image": lambda: nn.Sequential(act(), nn.Flatten(), nn.Linear(16, 3)),
    "neurons are the readout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3), act()),
    "a norm that stays": lambda: nn.Sequential(conv(), act(), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3)),
    "a norm before the conv": lambda: nn.Sequential(nn.BatchNorm2d(1), conv(), act(), nn.Flatten(), nn.Linear(32, 3)),
    "max pooling in the stem": lambda: nn.Sequential(conv(), nn.MaxPool2d(2), act(), nn.Flatten(), nn.Linear(8, 3)),
    "a stem that is no convolution": lambda: Net(
        lambda net, x: net.fc(net.act((x - 0.5) * 2).flatten(1)), act=act(), fc=nn.Linear(16, 3)
    ),
    "the image is added again": lambda: Net(
        lambda net, x: net.fc((net.act(net.conv(x)) + x).flatten(1)), conv=conv(), act=act(), fc=nn.Linear(32, 3)
    ),
    "the stem is added again": lambda: Net(
        lambda net, x: (lambda stem: net.fc((net.act(net.conv(stem)) + stem).flatten(1)))(net.stem(x)),
        stem=conv(),
        conv=conv(2),
        act=act(),
        fc=nn.Linear(32, 3),
    ),
    "spikes beside the image": lambda: Net(
        lambda net, x: net.fc(torch.cat([x, net.act(net.conv(x))], 1).flatten(1)),
        conv=conv(), act=act(), fc=nn.Linear(48, 3),
    ),
    "one neuron feeds two layers": lambda: Net(
        lambda net, x: (lambda s: net.one(s) + net.two(s))(net.act(net.conv(x)).flatten(1)),
        conv=conv(), act=act(), one=nn.Linear(32, 3), two=nn.Linear(32, 3),
    ),
    "one neuron feeds a layer and a sum": lambda: Net(
        lambda net, x: (lambda s: net.fc((net.conv2(s) + s).flatten(1)))(net.act(net.conv1(x))),
        conv1=conv(), act=act(), conv2=conv(2), fc=nn.Linear(32, 3),
    ),
    "a layer that is used twice": lambda: Net(
        lambda net, x: net.fc(net.act2(net.conv(net.act1(net.conv(x)))).flatten(1)),
        conv=conv(1, 1), act1=act(), act2=act(), fc=nn.Linear(16, 3),
    ),
    "a weight of its own scales and shifts": lambda: Net(
        lambda net, x: net.fc((net.act(net.conv(x) * net.own.weight) * net.own.weight + net.own.bias * 2).flatten(1)),
        conv=conv(), act=act(), own=nn.LayerNorm([2, 1, 1]), fc=nn.Linear(32, 3),
    ),
    "two layers share a weight": lambda: tied(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 4), act(), nn.Linear(4, 4), act(), nn.Linear(4, 4), act(), nn.Linear(4, 3))
    ),
    "reads its batch size": lambda: Net(
        lambda net, x: net.fc(net.act(net.conv(x)).view(x.size(0), -1)), conv=conv(), act=act(), fc=nn.Linear(32, 3)
    ),
    "reads the shape of spikes": lambda: Net(
        lambda net, x: (lambda s: net.fc(s.reshape(s.shape[0], -1)))(net.act(net.conv(x))),
        conv=conv(), act=act(), fc=nn.Linear(32, 3),
    ),
    "scaled pooling": lambda: Net(
        lambda net, x: net.fc(0.5 * net.act(net.conv(x)).mean((2, 3)) / 2), conv=conv(), act=act(), fc=nn.Linear(2, 3)
    ),
    "depthwise": lambda: nn.Sequential(conv(), act(), nn.Conv2d(2, 2, 3, groups=2), act(), nn.Flatten(), nn.Linear(8, 3)),
}  # fmt: skip
SETTINGS = {
    "step": {"schedule": "step"},
    "layer": {"schedule": "layer", "chunk": 3},
    "all at once": {"schedule": "layer", "chunk": 100},
    "channels last": {"schedule": "layer", "chunk": 2, "channels_last": True},
    "channels last, step": {"schedule": "step", "channels_last": True},
    "unit spikes": {"schedule": "step", "fold_threshold": True},
    "unit spikes, layer": {"schedule": "layer", "chunk": 3, "fold_threshold": True},
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_equals_the_literal_simulation(make, make_exact, exact_images):
    ann, images = make_exact(make()), exact_images()
    expected = simulate_literally(ann, images, 7)
    assert expected.ne(expected[0]).any()  # spikes do something here
    for name, setting in SETTINGS.items():
        torch.testing.assert_close(
            spiking(ann, **setting)(images, 7), expected, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["plain", "residual"]),
    seed=st.integers(0, 1000),
    count=st.sampled_from([1, 4]),
    timesteps=st.integers(1, 9),
    chunk=st.sampled_from([1, 2, 4]),
)
def test_any_schedule_gives_the_same_logits(exact_network, exact_images, kind, seed, count, timesteps, chunk):
    ann, images = exact_network(kind, seed=seed), exact_images(count, seed=seed)
    expected = simulate_literally(ann, images, timesteps)
    same(spiking(ann, schedule="step")(images, timesteps), expected)
    same(spiking(ann, schedule="layer", chunk=chunk)(images, timesteps), expected)


def test_an_mlp_by_three_loops(make_exact):
    """No torch in the reference: lists of Python floats, one neuron at a time."""
    ann = make_exact(nn.Sequential(nn.Flatten(), nn.Linear(4, 5), act(), nn.Linear(5, 4), act(), nn.Linear(4, 3)))
    ann.double()
    images = torch.randint(-8, 9, (3, 1, 2, 2)).double() / 8
    layers = [(layer.weight.tolist(), layer.bias.tolist()) for layer in (ann[1], ann[3], ann[5])]
    thresholds = [ann[2].threshold.item(), ann[4].threshold.item()]
    expected = [[], [], [], [], [], []]
    for image in images.flatten(1).tolist():
        v = [[threshold / 2] * len(bias) for threshold, (_, bias) in zip(thresholds, layers, strict=False)]
        for t in range(6):
            signal = image
            for depth, (weight, bias) in enumerate(layers):
                current = [
                    b + sum(w * s for w, s in zip(row, signal, strict=True))
                    for row, b in zip(weight, bias, strict=True)
                ]
                if depth == 2:
                    expected[t].append(current)
                    continue
                signal = []
                for neuron, value in enumerate(current):
                    v[depth][neuron] += value
                    fires = v[depth][neuron] >= thresholds[depth]
                    v[depth][neuron] -= thresholds[depth] * fires
                    signal.append(thresholds[depth] * fires)
    same(spiking(ann)(images, 6), torch.tensor(expected, dtype=torch.float64))


# a model is a function of its images


@pytest.fixture(params=["step", "layer"])
def snn(request, exact_network):
    return spiking(exact_network("residual"), schedule=request.param, chunk=3)


def test_shape_and_no_gradient(snn, exact_images):
    logits = snn(exact_images(5), 7)
    assert logits.shape == (7, 5, 3)
    assert not logits.requires_grad


def test_the_same_answer_twice(snn, exact_images):
    images = exact_images()
    same(snn(images, 7), snn(images, 7))


def test_a_run_leaves_no_trace(snn, exact_images):
    """Neither other images, nor another batch size, nor a run that was broken off."""
    images = exact_images(5)
    first = snn(images, 7)
    snn(exact_images(5, seed=2), 4)
    snn(exact_images(2, seed=3), 4)
    next(snn.run(images, 9))
    same(snn(images, 7), first)


def test_anytime_is_true(snn, exact_images):
    images = exact_images()
    assert snn.timing.anytime
    same(snn(images, 11)[:4], snn(images, 4))


def test_the_batch_may_be_split(snn, exact_images):
    images = exact_images(5)
    whole = snn(images, 7)
    for sizes in ([1, 1, 1, 1, 1], [2, 2, 1], [4, 1]):
        same(torch.cat([snn(part, 7) for part in images.split(sizes)], dim=1), whole)


def test_chunks_are_the_run(snn, exact_images):
    images = exact_images()
    chunks = list(snn.run(images, 7))
    assert {len(chunk) for chunk in chunks[:-1]} <= {1, 3}
    same(torch.cat(chunks), snn(images, 7))


def test_samples_may_leave(snn, exact_images):
    """Remaining samples have the same outputs as if no sample had left."""
    images = exact_images(5)
    whole, run = snn(images, 9), snn.run(images, 9)
    got = [next(run), run.send(torch.tensor([0, 2, 3])), run.send(torch.tensor([2]))]  # the last: image 3
    t = [0, *torch.tensor([len(chunk) for chunk in got]).cumsum(0).tolist()]
    for chunk, start, end, left in zip(got, t, t[1:], ([0, 1, 2, 3, 4], [0, 2, 3], [3]), strict=False):
        same(chunk, whole[start:end, left])


def test_a_copy_answers_alike(snn, exact_images):
    images = exact_images()
    first = snn(images, 5)
    same(copy.deepcopy(snn)(images, 5), first)
    same(snn(images, 5), first)


def test_float64_weights_give_float64_logits(exact_network, exact_images):
    ann, images = exact_network(), exact_images()
    logits = spiking(ann.double())(images.double(), 4)
    assert logits.dtype == torch.float64
    same(logits.float(), spiking(ann.float())(images, 4))


def test_random_weights_differ_by_rounding_only():
    """Here convolutions may round differently with the batch size; in float64 that never reaches a threshold."""
    ann = nn.Sequential(conv(1, 4), act(), conv(4, 4), act(), nn.Flatten(), nn.Linear(64, 3)).double()
    images = 8 * torch.randn(6, 1, 4, 4, dtype=torch.float64)
    whole = spiking(ann, schedule="layer", chunk=4)(images, 10)
    single = torch.cat([spiking(ann, schedule="step")(image, 10) for image in images.split(1)], dim=1)
    torch.testing.assert_close(single, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_logits(exact_network, exact_images):
    ann, images = exact_network("residual"), exact_images(5)
    expected = simulate_literally(ann, images, 7)
    for schedule in ("step", "layer"):
        snn = spiking(ann, schedule=schedule, chunk=3, compile="default")
        same(snn(images, 7), expected)
        same(snn(images[:2], 7), expected[:, :2])  # an uneven last batch


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": "fast"}, "simulate.schedule='fast'"),
        ({"chunk": 0}, "simulate.chunk=0"),
        ({"event_driven": "no"}, "simulate.event_driven='no': must be true or false"),
    ],
)
def test_wrong_settings_are_named(exact_network, wrong, message, unchecked):
    with pytest.raises(ValueError, match=message):
        spiking(exact_network(), **wrong)


@pytest.mark.parametrize("timesteps", [0, -1])
def test_at_least_one_timestep(snn, exact_images, timesteps):
    with pytest.raises(ValueError, match=f"timesteps={timesteps}"):
        snn(exact_images(), timesteps)


# reading a model out


def test_running_mean_by_hand():
    logits = torch.tensor([1.0, 3.0, 8.0, 4.0]).view(4, 1, 1)
    assert running_mean(logits).flatten().tolist() == [1, 2, 4, 4]
    assert running_mean(logits, readout_from=3).flatten().tolist() == [1, 3, 8, 6]


@given(values=st.lists(st.integers(-64, 64), min_size=1, max_size=20), first=st.integers(1, 20))
def test_running_mean_is_a_mean(values, first):
    got = running_mean(torch.tensor(values).view(-1, 1, 1) / 8, first).flatten()
    for t in range(1, len(values) + 1):
        counted = values[first - 1 : t] or [values[t - 1]]
        assert got[t - 1].item() == pytest.approx(sum(counted) / len(counted) / 8, abs=1e-12)


@pytest.mark.parametrize("schedule", ["step", "layer"])
def test_spikes_are_counted(schedule):
    """θ = 1, two neurons: current ½ fires at t = 1, 3; current ¼ at t = 2."""
    ann = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), QCFS(4, 1.0), nn.Linear(2, 1))
    ann[1].weight.data, ann[1].bias.data = torch.tensor([[0.5], [0.25]]), torch.zeros(2)
    snn = spiking(ann, schedule=schedule, chunk=3)
    with count_spikes(snn) as counts:
        snn(torch.ones(1, 1, 1, 1), 4)
    snn(torch.ones(1, 1, 1, 1), 4)  # not counted any more
    assert [rows.tolist() for rows in counts.values()] == [[[1, 2, 0, 1], [1, 2, 0, 1], [1, 2, 0, 1], [0, 2, 0, 0]]]
    assert list(counts) == list(snn.neurons())


@pytest.mark.long
def test_counting_keeps_nothing_for_a_step():
    """Small tensors that stay, between large ones that go, let a process grow: 10 GB for a ResNet-56 at T = 64."""
    ann = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), QCFS(4, 1.0), nn.Linear(2, 1))
    ann[1].weight.data, ann[1].bias.data = torch.tensor([[0.5], [0.25]]), torch.zeros(2)
    snn, alive = spiking(ann), []
    with count_spikes(snn) as counts:
        for steps in (4, 40, 196):
            snn(torch.ones(1, 1, 1, 1), steps)
            gc.collect()  # what other tests left is not counted
            alive.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
    assert max(alive) <= alive[0]
    (rows,) = counts.values()
    assert rows[:, 0].tolist() == [spikes for steps in (4, 40, 196) for spikes in [1, 1, 1, 0] * (steps // 4)]


def test_latency_is_written_as_plain_values():
    assert Latency(warmup=4, waits=True).as_dict() == {
        "warmup": 4, "waits": True, "spike_levels": 1, "signed": False, "readout_from": 1, "needs_training": "none",
        "float_operators": 0, "encoding": "direct", "readout": "mean", "analog_currents": False,
    }  # fmt: skip


# what once went wrong


@pytest.fixture
def as_if_compiled(monkeypatch):
    """torch.compile that only stands in the way of hooks, as the real one may."""

    def compiled(part, mode=None):
        def run(*arguments):
            hooks = [(module, module._forward_hooks.copy()) for module in part.modules()]
            for module, _ in hooks:
                module._forward_hooks.clear()
            try:
                return part(*arguments)
            finally:
                for module, kept in hooks:
                    module._forward_hooks.update(kept)

        return run

    monkeypatch.setattr(torch, "compile", compiled)


def test_compiled_models_are_counted_like_others(as_if_compiled, exact_network, exact_images):
    ann, images = exact_network("residual"), exact_images(5)
    counted = []
    for compile in ("none", "default"):
        snn = spiking(ann, compile=compile)
        snn(images, 3)  # the largest batch so far: smaller ones are padded to it
        with count_spikes(snn) as counts:
            snn(images[:2], 3)
        counted.append({path: rows.tolist() for path, rows in counts.items()})
    assert counted[0] == counted[1] != {}


def test_padding_keeps_to_what_is_simulated_at_once(as_if_compiled, exact_network, exact_images, monkeypatch):
    monkeypatch.setattr("snnconv.spiking.time_loop.IN_CACHE", 16)
    images, sizes = exact_images(5), []
    snn = SpikingModel(
        parallel(exact_network(), []).network,
        Latency(waits=True),
        Timing(anytime=False, lookahead=None),
        simulation={"compile": "default"},
    )
    snn(images, 1)
    snn.network[0].register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    expected = parallel(exact_network(), [])(images, 8)
    same(snn(images, 8), expected)
    assert sizes == [2, 2, 2]  # 16 / 8 images, the last one padded


def test_a_prefix_needs_no_network_of_its_own(exact_network, exact_images):
    made = []

    def for_timesteps(t):
        made.append(t)
        return spiking(exact_network()).network

    snn = SpikingModel(spiking(exact_network()).network, Latency(), for_timesteps=for_timesteps)
    for t in (4, 2, 4, 6):
        snn(exact_images(), t)
    assert made == [4, 6]
    assert snn.double()(exact_images().double(), 8).dtype == torch.float64


def test_buffers_of_five_dimensions_have_no_channels_to_lay_out_last():
    """Masks of windowed attention; `Module.to(memory_format=…)` fails on them."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval()
    network.register_buffer("mask", torch.zeros(1, 2, 1, 3, 3))
    snn = by_name(network, torch.randn(9, 1, 4, 4), method="max_norm", simulation={"channels_last": True})
    assert snn(torch.randn(2, 1, 4, 4), 3).shape == (3, 2, 2)
    assert snn.network.get_submodule("0").weight.is_contiguous(memory_format=torch.channels_last)
