"""Signed neurons: against a literal transcription of both published rules, one neuron and one number at a time."""

import copy

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from snnconv.conversion.calibration import observed_thresholds
from snnconv.conversion.methods.signed import convert
from snnconv.conversion.rules import largest
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.neurons.signed import Signed
from snnconv.spiking.recording import count_spikes

DYADIC = st.integers(-2048, 2048).map(lambda k: k / 256)
RULES = {"signed": (0.5, 1e-3), "signed_snm": (0.0, 1.0)}  # v(0)/θ, θ⁻/θ


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def fast_snn(v: float, total: int, x: float, threshold: float) -> tuple[float, int, int]:
    """Hu et al., 2023: fire at θ and subtract; then, if v is below zero and spikes are out, take one back."""
    v, spike = v + x, 0
    if v >= threshold:
        v, total, spike = v - threshold, total + 1, 1
    if v <= -1e-3 * threshold and total > 0:
        v, total, spike = v + threshold, total - 1, spike - 1
    return v, total, spike


def snm(v: float, total: int, x: float, threshold: float) -> tuple[float, int, int]:
    """Wang et al., 2022: spikes at ±θ, the negative ones only while more than 0 has been transmitted."""
    v, spike = v + x, 0
    if v >= threshold:
        spike = 1
    elif v <= -threshold and total > 0:
        spike = -1
    return v - spike * threshold, total + spike, spike


LITERAL = {"signed": fast_snn, "signed_snm": snm}


def life(name: str, currents: list[float], threshold: float) -> list[int]:
    """The spikes of one neuron."""
    v, total, spikes = RULES[name][0] * threshold, 0, []
    for x in currents:
        v, total, spike = LITERAL[name](v, total, x, threshold)
        spikes.append(spike)
    return spikes


class Literal(nn.Module):
    """A layer of such neurons, which knows nothing of time but its own past."""

    def __init__(self, name: str, threshold: float) -> None:
        super().__init__()
        self.rule, self.threshold, self.states = LITERAL[name], threshold, []
        self.first = (RULES[name][0] * threshold, 0)

    def forward(self, x):
        states = self.states or [self.first] * x.numel()
        after = [
            self.rule(*state, value, self.threshold) for state, value in zip(states, x.flatten().tolist(), strict=True)
        ]
        self.states = [(v, total) for v, total, _ in after]
        return torch.tensor([self.threshold * spike for _, _, spike in after], dtype=x.dtype).view(x.shape)


@torch.no_grad()
def simulate_literally(
    ann: nn.Module, name: str, thresholds: dict, images: torch.Tensor, timesteps: int
) -> torch.Tensor:
    network = copy.deepcopy(ann)
    for path, threshold in thresholds.items():
        network.set_submodule(path, Literal(name, threshold))
    return torch.stack([network(images) for _ in range(timesteps)])


@pytest.fixture
def method(compose_config):
    return lambda name, *overrides: instantiate(compose_config(f"method={name}", "levels=4", *overrides).method)


@pytest.mark.parametrize("name", LITERAL)
@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("schedule", ["step", "layer"])
def test_equals_the_literal_rule(method, exact_network, exact_images, name, kind, schedule):
    lowest = 0.0
    for seed in range(2):
        ann, images = exact_network(kind, seed=seed), exact_images(6, seed)
        for site in (sites := {path: site for path, site in ann.named_modules() if isinstance(site, QCFS)}).values():
            site.set_threshold(2 * site.threshold.item())  # rarer, larger spikes: more of them come too early
        thetas = {path: site.threshold.item() for path, site in sites.items()}
        snn = method(name, f"simulate.schedule={schedule}", "simulate.chunk=3")(ann, [])
        with count_spikes(snn) as counts:
            same(snn(images, 16), simulate_literally(ann, name, thetas, images, 16))
        lowest = min(lowest, *(float(rows[:, 2].min()) for rows in counts.values()))
    assert lowest == -1  # the rule was at work


@pytest.mark.parametrize("name", LITERAL)
def test_equals_the_literal_rule_from_a_relu_network(exact_network, exact_images, name):
    ann, images = exact_network("residual", ReLU).double(), exact_images(3).double()
    batches = [(exact_images(4, seed).double(), torch.zeros(4)) for seed in (1, 2)]
    v_initial, negative = RULES[name]
    snn = convert(ann, batches, negative=negative, v_initial=v_initial, rule=largest)
    thetas = {path: neuron.threshold for path, neuron in snn.neurons().items()}
    assert thetas == observed_thresholds(ann, list(thetas), batches, largest, levels=4)
    same(snn(images, 7), simulate_literally(ann, name, thetas, images, 7))


# one neuron


@pytest.mark.parametrize("name", LITERAL)
@given(currents=st.lists(DYADIC, min_size=1, max_size=32), exponent=st.integers(-2, 2))
def test_laws(name, currents, exponent):
    """Spike for spike the literal rule; v(T) = v(0) + Σx − θΣs; never more taken back than was given."""
    theta, (v_initial, negative) = 2.0**exponent, RULES[name]
    current = torch.tensor(currents, dtype=torch.float64).view(-1, 1)
    neuron = Signed(theta, v_initial, negative)
    output = neuron(current)
    assert (output / theta).flatten().tolist() == life(name, currents, theta)
    same(neuron.node.v, v_initial * theta + current.sum(0) - output.sum(0))
    assert (output.cumsum(0) >= 0).all()
    same(neuron.node.emitted * theta, output.sum(0))


@given(currents=st.lists(DYADIC, min_size=1, max_size=16), exponent=st.integers(-2, 2))
def test_fast_snn_repairs_unevenness(currents, exponent):
    """Once the current has ended, spikes add up to max(⌊Σx/θ + ½⌋, 0), in whatever order it came."""
    theta, total = 2.0**exponent, sum(currents)
    silence = [0.0] * int(sum(abs(x) for x in currents) / theta + 1)
    output = Signed(theta)(torch.tensor([*currents, *silence], dtype=torch.float64).view(-1, 1))
    assert (output.sum() / theta).item() == max((total / theta + 0.5) // 1, 0)


@given(currents=st.lists(DYADIC.map(abs), min_size=1, max_size=32), v_initial=st.sampled_from([0.0, 0.5]))
def test_without_negative_currents_it_is_integrate_and_fire(currents, v_initial):
    current = torch.tensor(currents, dtype=torch.float64).view(-1, 1)
    same(Signed(1.0, v_initial)(current), IntegrateFire(1.0, v_initial)(current))


def test_unevenness_by_hand():
    """θ = 1, currents 1½ 1½ −1 −1: plain integrate-and-fire emits two spikes (test_neurons.py), the even current one."""
    currents = torch.tensor([[1.5], [1.5], [-1.0], [-1.0], [0.0]])
    assert Signed(1.0)(currents).flatten().tolist() == [1, 1, 0, -1, 0]
    assert Signed(1.0, v_initial=0.0, negative=1.0)(currents).flatten().tolist() == [1, 1, 0, -1, 0]
    assert Signed(1.0, v_initial=0.5, negative=1.0)(currents).flatten().tolist() == [1, 1, 0, 0, 0]  # −½ is not yet −1


def test_one_threshold_a_channel():
    currents = torch.randint(-64, 96, (9, 2, 3, 2, 2)) / 64
    both = Signed(torch.tensor([0.5, 1.0, 2.0]))(currents)
    for channel, theta in enumerate((0.5, 1.0, 2.0)):
        same(both[:, :, channel], Signed(theta)(currents[:, :, channel]))


# what it refuses


@pytest.mark.parametrize("negative", [0.0, -1.0, float("inf"), float("nan")])
def test_negative_is_positive(exact_network, negative):
    with pytest.raises(ValueError, match=r"method\.negative"):
        convert(exact_network(), [], negative=negative, v_initial=0.5)


def test_a_relu_network_needs_images_and_a_rule(exact_network):
    ann = exact_network("plain", ReLU)
    with pytest.raises(ValueError, match=r"2: there are no calibration images .*data\.calibration"):
        convert(ann, [], negative=1.0, v_initial=0.0, rule=largest)
    with pytest.raises(ValueError, match=r"2: has no threshold.*method\.rule"):
        convert(ann, [], negative=1.0, v_initial=0.0)


def test_it_says_that_it_is_signed(exact_network, exact_images):
    batches = [(exact_images(4), torch.zeros(4))]
    trained = convert(exact_network(), [], negative=1.0, v_initial=0.0).latency
    plain = convert(exact_network("plain", ReLU), batches, negative=1.0, v_initial=0.0, rule=largest).latency
    assert (trained.signed, trained.spike_levels, trained.needs_training) == (True, 1, "activation")
    assert (plain.signed, plain.spike_levels, plain.needs_training) == (True, 1, "none")
