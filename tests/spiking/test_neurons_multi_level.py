"""Signed neurons of several levels against slow literal references, and what they tend to."""

import pytest
import torch
from spikingjelly.activation_based import functional

from snnconv.spiking.neurons.multi_level import Differential, MultiLevel

T = 12


@pytest.fixture
def current():
    """Multiples of 1/64, so that nothing is rounded; positive, negative, and some that turn negative later."""
    steps = torch.randint(-64, 97, (T, 3, 5)).double() / 64
    steps[T // 2 :, 0] -= 1
    return steps


def multi_level(steps, theta, n, share, v0):
    """One neuron, level by level, as the paper's rule is written."""
    levels = [theta / 2**k for k in range(n)]
    v, sent, out = v0 * levels[-1], 0.0, []
    for x in steps:
        v += x
        spike = 0.0
        for level in levels:  # the largest first
            if v >= share * level:
                spike = level
                break
            if v <= -share * level and sent >= level:
                spike = -level
                break
        v, sent = v - spike, sent + spike
        out.append(spike)
    return out


def differential(weights, bias, inputs, theta, n, share):
    """A layer of one output whose inputs arrive as changes s of running means: what the neuron itself transmits.

    mean_in ← mean_in + W s/t from mean_in = bias; v ← v + W s + mean_in − mean_out; mean_out ← mean_out + spike/t.
    """
    levels = [theta / 2**k for k in range(n)]
    v, mean_in, mean_out, spikes = 0.0, bias, 0.0, []
    for t, s in enumerate(inputs, 1):
        x = sum(w * value for w, value in zip(weights, s, strict=True))
        v += x + mean_in - mean_out
        spike = 0.0
        for level in levels:
            if v >= share * level:
                spike = level
                break
            if v <= -share * level and t * mean_out >= level - 1e-12:
                spike = -level
                break
        v, mean_in, mean_out = v - spike, mean_in + x / t, mean_out + spike / t
        spikes.append(spike)
    return spikes, mean_out


@pytest.mark.parametrize(("n", "share", "v0"), [(1, 1.0, 0.5), (3, 0.75, 0.0), (4, 1.0, 0.5)])
def test_multi_level_is_the_literal_rule(current, n, share, v0):
    out = MultiLevel(1.5, n, share, v0)(current)
    for index in torch.cartesian_prod(torch.arange(3), torch.arange(5)).tolist():
        assert out[:, *index].tolist() == multi_level(current[:, *index].tolist(), 1.5, n, share, v0)
    assert (out < 0).any()
    assert (out.cumsum(0) >= 0).all()


@pytest.mark.parametrize(("share", "v0", "left"), [(1.0, 0.5, (0.05, 0.2)), (0.75, 0.25, (-0.03, 0.03))])
def test_what_the_rules_leave_in_the_potential(share, v0, left):
    """The largest level below v leaves a part of the next one, on average over currents and time; the nearest level nothing."""
    current = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    out = MultiLevel(1.0, 4, share, v0)(current.expand(64, 1, 99)).cumsum(0)[8:, 0]
    owed = current * torch.arange(9, 65, dtype=torch.float64).unsqueeze(1) - out
    assert left[0] < owed.mean() < left[1]


def test_differential_is_the_literal_rule():
    """Two layers: the second gets decoded signals here, changes of means and a bias of its own in the reference."""
    steps = torch.rand(T, 1, 3, dtype=torch.float64) * 2 - 0.3
    first, second = Differential(2.0, 4), Differential(1.0, 3)
    sent = []
    first.node.register_forward_hook(lambda node, inputs, output: sent.append(output * first.amplitude))
    weights, bias = torch.tensor([0.5, -0.25, 0.75], dtype=torch.float64), 0.1
    received = (first(steps) @ weights + bias).unsqueeze(-1)
    out = second(received)
    spikes, mean = differential(weights.tolist(), bias, sent[0][:, 0].tolist(), 1.0, 3, 0.75)
    decoded, before = [], 0.0
    for t, spike in enumerate(spikes, 1):
        decoded.append(spike + before)
        before += spike / t
    torch.testing.assert_close(out.flatten(), torch.tensor(decoded, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    assert out.mean().item() == pytest.approx(mean)


@pytest.mark.parametrize("kind", [MultiLevel, Differential])
def test_the_mean_output_tends_to_relu_of_the_mean_current(kind):
    mean = torch.linspace(-1, 1.4, 25, dtype=torch.float64)
    current = mean + torch.randn(2000, 1, 25, dtype=torch.float64) * 0.05
    out = kind(1.5, 4)(current)
    errors = (out.mean(0) - current.mean(0).clamp_min(0)).abs().max()
    assert errors < 0.01


@pytest.mark.parametrize("kind", [MultiLevel, Differential])
def test_step_modes_chunks_and_channels(kind, current):
    theta = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5])
    neuron = kind(theta, 3)
    whole = neuron(current)
    functional.reset_net(neuron)
    parts = torch.cat([neuron(current[:5]), neuron(current[5:])])
    functional.reset_net(neuron)
    functional.set_step_mode(neuron, "s")
    steps = torch.cat([neuron(step.unsqueeze(0)) for step in current])
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    torch.testing.assert_close(steps, whole, rtol=0, atol=0)
    functional.reset_net(neuron)
    alone = kind(1.5, 3)(current[:, :, 2:3])
    torch.testing.assert_close(whole[:, :, 2:3], alone, rtol=1e-12, atol=1e-12)


def test_a_settled_mean_costs_no_spikes():
    """Differential coding falls silent where rate coding goes on."""
    current = torch.full((64, 1, 1), 0.5, dtype=torch.float64)
    spikes = []
    for kind in (MultiLevel, Differential):
        neuron = kind(1.0, 4)
        neuron.node.register_forward_hook(lambda node, inputs, output: spikes.append(output.count_nonzero().item()))
        neuron(current)
    assert spikes[0] == 64
    assert spikes[1] == 1


@pytest.mark.parametrize(("settings", "message"), [({"levels": 0}, "levels=0"), ({"share": 0.2}, "share=0.2")])
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        MultiLevel(1.0, **settings)


def test_the_mean_of_a_clipped_activation_stays_at_its_bound():
    """Changes of a mean add up to any value, so a ReLU6 needs its 6 besides θ."""
    mean = torch.linspace(-1, 3, 25, dtype=torch.float64)
    current = mean + torch.randn(2000, 1, 25, dtype=torch.float64) * 0.05
    out = Differential(1.5, 4, bound=2.0)(current)
    assert (out.mean(0) - current.mean(0).clamp(0, 2)).abs().max() < 0.01
    unbounded = Differential(1.5, 4)(current)
    assert unbounded.mean(0).max() > 2.9
