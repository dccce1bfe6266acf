"""Burst and group neurons: against literal transcriptions, one neuron and one number at a time."""

import copy
import math

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from snnconv.conversion.methods import burst, group
from snnconv.conversion.rules import largest
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.nn.functional import qcfs
from snnconv.spiking.neurons.burst import Burst
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.recording import count_spikes

DYADIC = st.integers(-2048, 2048).map(lambda k: k / 256)
CURRENTS = st.lists(DYADIC, min_size=1, max_size=16)
POWERS = st.integers(-2, 2).map(lambda k: 2.0**k)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def column(currents: list[float]) -> torch.Tensor:
    return torch.tensor(currents, dtype=torch.float64).view(-1, 1)


class LiteralBurst:
    """Li & Zeng, 2022: as many whole θ as v holds, at most γ, leave as spikes."""

    def __init__(self, threshold: float, gamma: int) -> None:
        self.threshold, self.gamma, self.v = threshold, gamma, 0.0

    def step(self, x: float) -> float:
        self.v += x
        spikes = min(max(math.floor(self.v / self.threshold), 0), self.gamma)
        self.v -= spikes * self.threshold
        return spikes * self.threshold


class LiteralGroup:
    """Lv et al., 2024: every member whose threshold k·θ/m the common membrane reaches fires, and takes θ/m from it."""

    def __init__(self, threshold: float, members: int) -> None:
        self.part, self.members = threshold / members, members
        self.v = 0.5 * self.part

    def step(self, x: float) -> float:
        self.v += x
        fired = sum(self.v >= k * self.part for k in range(1, self.members + 1))
        self.v -= fired * self.part
        return fired * self.part


class Layer(nn.Module):
    """Such a neuron for every element of its input."""

    def __init__(self, kind: type, *settings) -> None:
        super().__init__()
        self.make, self.neurons = (lambda: kind(*settings)), []

    def forward(self, x):
        self.neurons = self.neurons or [self.make() for _ in range(x.numel())]
        outputs = [neuron.step(value) for neuron, value in zip(self.neurons, x.flatten().tolist(), strict=True)]
        return torch.tensor(outputs, dtype=x.dtype).view(x.shape)


@torch.no_grad()
def simulate_literally(ann, kind: type, size: int, thresholds: dict, images, timesteps: int) -> torch.Tensor:
    network = copy.deepcopy(ann)
    for path, threshold in thresholds.items():
        network.set_submodule(path, Layer(kind, threshold, size))
    return torch.stack([network(images) for _ in range(timesteps)])


METHODS = {  # literal neuron, its γ or m, and the override that says so
    "burst": (LiteralBurst, 5, "method.gamma=5"),
    "burst of two": (LiteralBurst, 2, "method.gamma=2"),
    "group": (LiteralGroup, 4, "method.members=4"),
    "group of two": (LiteralGroup, 2, "method.members=2"),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("schedule", ["step", "layer"])
def test_equals_the_literal_neuron(compose_config, exact_network, exact_images, name, kind, schedule):
    literal, size, override = METHODS[name]
    overrides = [f"method={name.split()[0]}", override, f"simulate.schedule={schedule}", "simulate.chunk=3"]
    method, most = instantiate(compose_config(*overrides).method), 0.0
    for seed in (0, 1):
        ann, images = exact_network(kind, seed=seed), 4 * exact_images(4, seed)  # bright enough for the longest burst
        thetas = {path: site.threshold.item() for path, site in ann.named_modules() if isinstance(site, QCFS)}
        snn = method(ann, [])
        with count_spikes(snn) as counts:
            same(snn(images, 8), simulate_literally(ann, literal, size, thetas, images, 8))
        most = max(most, *(float(rows[:, 3].max()) for rows in counts.values()))
    assert most == size == snn.latency.spike_levels  # whole spikes, as many as it says


@pytest.mark.parametrize("name", ["burst", "group"])
def test_equals_the_literal_neuron_from_a_relu_network(exact_network, exact_images, name):
    ann, images = exact_network("residual", ReLU).double(), exact_images(3).double()
    batches = [(exact_images(4, seed).double(), torch.zeros(4)) for seed in (1, 2)]
    snn = {"burst": burst, "group": group}[name].convert(ann, batches, rule=largest)
    literal, size, _ = METHODS[name]
    parts = 1 if name == "burst" else size  # a group's spike counts θ/m
    thetas = {path: neuron.threshold * parts for path, neuron in snn.neurons().items()}
    same(snn(images, 6), simulate_literally(ann, literal, size, thetas, images, 6))
    assert snn.latency.needs_training == "none"


# one neuron


@given(currents=CURRENTS, theta=POWERS, most=st.integers(1, 6), v_initial=st.sampled_from([0.0, 0.5]))
def test_nothing_is_lost(currents, theta, most, v_initial):
    """v(T) = v(0) + Σx − θΣn."""
    neuron = Burst(theta, most, v_initial)
    output = neuron(column(currents))
    same(neuron.node.v, v_initial * theta + column(currents).sum(0) - output.sum(0))
    assert set((output / theta).flatten().tolist()) <= set(range(most + 1))


@given(currents=CURRENTS, theta=POWERS, most=st.integers(1, 6))
def test_the_literal_neurons(currents, theta, most):
    literal = LiteralBurst(theta, most)
    assert Burst(theta, most)(column(currents)).flatten().tolist() == [literal.step(x) for x in currents]
    members = 2 ** (most % 3)  # so that θ/m is representable
    literal = LiteralGroup(theta, members)
    output = Burst(theta / members, members, v_initial=0.5)(column(currents))
    assert output.flatten().tolist() == [literal.step(x) for x in currents]


@given(currents=CURRENTS, theta=POWERS, v_initial=st.sampled_from([0.0, 0.5]))
def test_bursts_of_one_are_integrate_and_fire(currents, theta, v_initial):
    same(Burst(theta, 1, v_initial)(column(currents)), IntegrateFire(theta, v_initial)(column(currents)))


@given(current=DYADIC, theta=POWERS, levels=st.sampled_from([1, 2, 4, 8]), timesteps=st.sampled_from([1, 2, 4]))
def test_a_group_is_qcfs(current, theta, levels, timesteps):
    """One step with m = L is the activation itself; T steps of a constant current are QCFS with m·T levels."""
    x = torch.tensor([current], dtype=torch.float64)
    output = Burst(theta / levels, levels, v_initial=0.5)(x.expand(timesteps, 1)).mean(0)
    same(output, qcfs(x, torch.tensor(theta, dtype=x.dtype), levels * timesteps))


@given(current=DYADIC.map(abs), theta=POWERS, timesteps=st.integers(1, 8))
def test_large_enough_bursts_leave_nothing_behind(current, theta, timesteps):
    """γ ≥ all that can have gathered: v(t) stays in [0, θ), so the output so far is within θ of the input so far."""
    neuron = Burst(theta, max(math.ceil(current / theta) + 1, timesteps))
    output = neuron(column([current] * timesteps))
    assert 0 <= neuron.node.v.item() < theta
    assert output.sum().item() == math.floor(timesteps * current / theta) * theta


def test_by_hand():
    """θ = 1, γ = 3: a burst of two, then of all that is there, but no more than three at once."""
    currents = torch.tensor([[2.5], [-0.5], [1.0], [4.0], [0.0]])
    assert Burst(1.0, 3)(currents).flatten().tolist() == [2, 0, 1, 3, 1]
    assert IntegrateFire(1.0, v_initial=0.0)(currents).flatten().tolist() == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_one_step_of_groups_is_the_quantized_network(exact_network, exact_images, levels):
    ann, images = exact_network("residual", lambda: QCFS(levels)), exact_images()
    same(group.convert(ann, [], members=levels)(images, 1)[0], ann(images).detach())


def test_share_says_what_a_spike_counts(exact_network):
    for share in (1.0, 0.25):
        neurons = burst.convert(exact_network(), [], gamma=4, share=share).neurons()
        expected = [share * site.threshold.item() for site in exact_network().modules() if isinstance(site, QCFS)]
        assert [neuron.threshold for neuron in neurons.values()] == expected


def test_one_threshold_a_channel():
    currents = torch.randint(-64, 96, (9, 2, 3, 2, 2)) / 32
    both = Burst(torch.tensor([0.5, 1.0, 2.0]), 3)(currents)
    for channel, theta in enumerate((0.5, 1.0, 2.0)):
        same(both[:, :, channel], Burst(theta, 3)(currents[:, :, channel]))


# what they refuse


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True])
def test_whole_numbers_of_spikes(exact_network, wrong, unchecked):
    with pytest.raises(ValueError, match=r"method\.gamma"):
        burst.convert(exact_network(), [], gamma=wrong)
    with pytest.raises(ValueError, match=r"method\.members"):
        group.convert(exact_network(), [], members=wrong)
    with pytest.raises(ValueError, match="most"):
        Burst(1.0, wrong)


@pytest.mark.parametrize("share", [0.0, -1.0, float("inf")])
def test_a_spike_counts_something(exact_network, share):
    with pytest.raises(ValueError, match=r"method\.share"):
        burst.convert(exact_network(), [], share=share)


@pytest.mark.parametrize("convert", [burst.convert, group.convert])
def test_a_relu_network_needs_images_and_a_rule(exact_network, convert):
    with pytest.raises(ValueError, match=r"2: there are no calibration images .*data\.calibration"):
        convert(exact_network("plain", ReLU), [], rule=largest)
    with pytest.raises(ValueError, match=r"2: has no threshold.*method\.rule"):
        convert(exact_network("plain", ReLU), [])
