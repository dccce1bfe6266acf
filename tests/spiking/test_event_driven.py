"""Convolutions of spikes: those of torch, whatever the shape, and used where they pay."""

import copy
import functools
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from snnconv.nn.graph.split import split
from snnconv.spiking import event_driven
from snnconv.spiking.event_driven import DENSE, EventDriven, serves, walk_spikes
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.recording import count_spikes

compiled = pytest.mark.skipif(event_driven.library() is None, reason="no C++ compiler here")


def spikes_of(n: int, channels: int, height: int, width: int, share: float = 0.2) -> Tensor:
    """Integers, some of them negative, most of them 0."""
    shape = n, channels, height, width
    numbers = torch.randint(-3, 4, shape) * (torch.rand(shape) < share)
    return numbers.float().contiguous(memory_format=torch.channels_last)


def conv_of(channels: int = 16, out: int = 16, size: int = 3, **settings) -> nn.Conv2d:
    settings.setdefault("padding", size // 2)
    return nn.Conv2d(channels, out, settings.pop("kernel_size", size), **settings)


@torch.no_grad()
def event_driven_only(conv: nn.Conv2d, spikes: Tensor) -> Tensor:
    """Output of the kernel, used for small and dense inputs too."""
    layer = EventDriven(conv)
    with (
        mock.patch.multiple(event_driven, SMALL=0, DENSE=dict.fromkeys(DENSE, 1.0)),
        mock.patch.object(nn.Conv2d, "forward", side_effect=AssertionError),
    ):
        return layer(spikes)


@compiled
@given(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([*DENSE]),
    st.booleans(), st.floats(0, 1), st.integers(0, 999),
)  # fmt: skip
def test_it_is_the_convolution(n, channels, blocks, height, width, size, bias, share, seed):
    torch.manual_seed(seed)
    conv, spikes = conv_of(channels, 16 * blocks, size, bias=bias), spikes_of(n, channels, height, width, share)
    found = event_driven_only(conv, spikes)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), copy.deepcopy(conv).double()(spikes.double()), rtol=1e-5, atol=1e-5)


@compiled
def test_an_image_has_one_result_in_any_batch_and_with_any_number_of_threads():
    conv, spikes = conv_of(), spikes_of(5, 16, 8, 8)
    together, threads = event_driven_only(conv, spikes), torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(event_driven_only(conv, spikes), together)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat([event_driven_only(conv, part) for part in spikes.split(1)]), together)


def test_what_it_serves():
    assert all(serves(conv_of(3, 32, size)) for size in DENSE)
    assert serves(conv_of(padding="same"))
    others = [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding": 0}, {"padding": (1, 0)}, {"padding_mode": "circular"},
              {"out": 24}, {"size": 7}, {"kernel_size": (3, 1), "padding": (1, 0)}]  # fmt: skip
    assert not any(serves(conv_of(**other)) for other in others)
    assert not serves(nn.Linear(16, 16))
    assert not serves(nn.ConvTranspose2d(16, 16, 3, padding=1))


USUAL = {
    "float64": lambda layer, x: (layer.double(), x.double()), "bf16": lambda layer, x: (layer.bfloat16(), x.bfloat16()),
    "not channels last": lambda layer, x: (layer, x.contiguous()), "small": lambda layer, x: (layer, x[:1]),
    "dense": lambda layer, x: (layer, x + 1), "gradients": lambda layer, x: (layer, x.requires_grad_()),
    "infinite": lambda layer, x: (layer.conv.weight.data[0, 0, 0].fill_(torch.inf), (layer, x))[1],
    "hook": lambda layer, x: (layer.conv.register_forward_hook(lambda module, inputs, output: output + 1), (layer, x))[1],
    "pruned": lambda layer, x: (prune.l1_unstructured(layer.conv, "weight", 0.5), (layer, x))[1],
}  # fmt: skip


@pytest.mark.parametrize("change", USUAL.values(), ids=USUAL)
def test_everything_else_goes_the_usual_way(change):
    layer, spikes = change(EventDriven(conv_of()), spikes_of(32, 16, 16, 16))
    with torch.set_grad_enabled(spikes.requires_grad):
        torch.testing.assert_close(layer(spikes), layer.conv(spikes), rtol=0, atol=0, equal_nan=True)


@torch.no_grad()
def test_what_looks_at_operations_sees_a_convolution():
    layer, spikes = EventDriven(conv_of()), spikes_of(32, 16, 16, 16)
    with FlopCounterMode(display=False) as counter:
        layer(spikes)
    assert counter.get_total_flops() == 2 * 32 * 16**4 * 9
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(spikes).dtype == torch.bfloat16


@compiled
@torch.no_grad()
def test_torchs_defaults_have_no_say():
    layer, spikes = EventDriven(conv_of()), spikes_of(32, 16, 16, 16)
    expected, default = layer(spikes), torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(layer(spikes), expected)
    finally:
        torch.set_default_dtype(default)
    with torch.device("meta"):
        assert torch.equal(layer(spikes), expected)


@pytest.mark.parametrize("compiler", [None, "false", "true", "/no/such"])  # none, one that fails, that writes nothing
@torch.no_grad()
def test_without_a_compiler_that_works_convolutions_stay_dense(monkeypatch, compiler):
    monkeypatch.setattr("shutil.which", lambda name: compiler)
    monkeypatch.setattr(event_driven, "library", functools.cache(event_driven.library.__wrapped__))
    conv, spikes = conv_of(), spikes_of(32, 16, 16, 16)
    assert torch.equal(EventDriven(conv)(spikes), conv(spikes))


class Residual(nn.Module):
    """A small residual network whose weights and thresholds are such that no sum is rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.down = conv_of(3), conv_of(), conv_of(), conv_of(out=32, stride=2)
        self.last, self.head = conv_of(32, 32, 1), nn.Linear(32, 5)
        self.fire = nn.ModuleList(OverTime(IntegrateFire(0.5)) for _ in range(5))
        for parameter in self.parameters():
            parameter.data = (torch.randn(parameter.shape) * 8).round() / 64

    def forward(self, x: Tensor) -> Tensor:
        x = self.fire[0](self.stem(x))
        x = self.fire[2](self.two(self.fire[1](self.one(x))) + x)
        return self.head(self.fire[4](self.last(self.fire[3](self.down(x)))).mean((2, 3)))


@compiled
@pytest.mark.parametrize("schedule", ["step", "layer"])
def test_a_network_emits_the_same_spikes(schedule):
    torch.manual_seed(0)
    network, images = Residual(), (torch.randn(40, 3, 8, 8) * 16).round() / 16
    dense, sparse = (
        SpikingModel(
            copy.deepcopy(network), simulation={"schedule": schedule, "fold_threshold": False, "event_driven": walk}
        )
        for walk in (False, True)
    )
    kernel = event_driven.library()
    everything = mock.patch.multiple(event_driven, SMALL=0, DENSE=dict.fromkeys(DENSE, 1.0))
    with everything, mock.patch.object(event_driven, "library", return_value=kernel) as library:
        assert torch.equal(sparse(images, 8), dense(images, 8))
        assert torch.equal(sparse(images[:7], 8), dense(images[:7], 8))  # the state of before is forgotten
        for model in (dense, sparse):
            model.network.one.weight.data.neg_()  # which no version counter tells
        calls = library.call_count
        with count_spikes(sparse):
            assert torch.equal(sparse(images, 8), dense(images, 8))
    assert library.call_count - calls == 3 * (8 if schedule == "step" else 1)
    assert all(type(module) is not EventDriven for module in sparse.network.modules())
    assert (sparse.convolutions(), dense.convolutions()) == ("event-driven", "dense")


def test_convolutions_inside_a_neuron_are_its_own():
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv_of()

        def forward(self, current: Tensor) -> Tensor:
            return torch.stack([self.conv(step) for step in current])

    network = nn.Sequential(conv_of(3), OverTime(IntegrateFire(1.0)), conv_of(), OverTime(Strange()))
    _, rest = split(network, OverTime)
    faster = walk_spikes(rest)
    assert [path for path, module in faster.named_modules() if isinstance(module, EventDriven)] == ["2"]
    assert not any(isinstance(module, EventDriven) for part in (network, rest) for module in part.modules())
