"""Integrate-and-fire with a bias in time: by hand, and in every way in which a neuron can be driven."""

import pytest
import torch
from spikingjelly.activation_based import functional

from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.biased import BiasedIntegrateFire
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.recording import count_spikes

T, BIAS = 6, torch.tensor([[0.5, 0.0], [-1.0, 0.25], [0.25, 0.5]])  # three steps, two channels


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture
def current():
    """[T, N, C, H, W] = [6, 3, 2, 4, 4] around a threshold of 1."""
    return torch.randint(-64, 96, (T, 3, 2, 4, 4)) / 64


def literally(current, threshold, bias):
    output = torch.zeros_like(current)
    for n, c, h, w in torch.cartesian_prod(*(torch.arange(size) for size in current.shape[1:])):
        v = threshold / 2
        for t in range(len(current)):
            v += current[t, n, c, h, w].item() + bias[min(t, len(bias) - 1)][c].item()
            if v >= threshold:
                output[t, n, c, h, w], v = threshold, v - threshold
    return output


def test_by_hand():
    """θ = 1, current ¼: the first bias makes up for what is missing, the second silences, the third stays."""
    neuron = BiasedIntegrateFire(1.0, torch.tensor([[0.25], [-1.0], [0.5]]))
    assert neuron(torch.full((6, 1, 1), 0.25)).flatten().tolist() == [1, 0, 0, 0, 1, 1]  # v: 0 −¾ 0 ¾ ½ ¼


def test_equals_the_literal_neuron(current):
    same(BiasedIntegrateFire(0.5, BIAS)(current), literally(current, 0.5, BIAS))


@pytest.mark.parametrize("cuts", [(), (1,), (2, 4), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_the_step_is_known_in_every_chunk_and_mode(current, cuts, mode):
    neuron = BiasedIntegrateFire(0.5, BIAS)
    functional.set_step_mode(neuron, mode)
    for _ in range(2):  # and again after a reset
        same(torch.cat([neuron(chunk) for chunk in current.tensor_split(cuts)]), literally(current, 0.5, BIAS))
        functional.reset_net(neuron)


def test_a_constant_bias_is_part_of_the_current(current):
    bias = torch.tensor([0.25, -0.5])
    same(BiasedIntegrateFire(0.5, bias.unsqueeze(0))(current), IntegrateFire(0.5)(current + bias.view(2, 1, 1)))


def test_thresholds_per_channel(current):
    theta = torch.tensor([0.5, 2.0])
    output = BiasedIntegrateFire(theta, BIAS)(current)
    for c in (0, 1):
        same(output[:, :, c : c + 1], literally(current[:, :, c : c + 1], theta[c].item(), BIAS[:, c : c + 1]))


def test_another_batch_starts_at_the_first_step(current):
    neuron = BiasedIntegrateFire(0.5, BIAS)
    neuron(current[:2, :1])
    same(neuron(current), literally(current, 0.5, BIAS))


@pytest.fixture(params=["step", "layer"])
def snn(request):
    network = torch.nn.Sequential(OverTime(BiasedIntegrateFire(0.5, BIAS)), torch.nn.Flatten(), torch.nn.Linear(32, 3))
    return SpikingModel(network, simulation={"schedule": request.param, "chunk": 2})


def test_samples_may_leave(snn):
    images = torch.randint(-64, 96, (3, 2, 4, 4)) / 64
    whole, run = snn(images, T), snn.run(images, T)
    first = next(run)
    rest = torch.cat([run.send(torch.tensor([0, 2])), *run])
    torch.testing.assert_close(rest, whole[len(first) :, [0, 2]], rtol=1e-6, atol=1e-6)


def test_spikes_are_counted_and_the_threshold_is_folded(snn):
    with count_spikes(snn) as counts:
        snn(torch.zeros(1, 2, 4, 4), 2)
    assert snn.network[0].neuron.amplitude == 1.0
    assert counts["0"].tolist() == [[16, 32, 0, 1], [16, 32, 0, 1]]  # channel 0: ¾; then channel 1: ½


def test_rounded_weights_leave_the_bias():
    network = OverTime(BiasedIntegrateFire(1.0, torch.tensor([[1 / 3]]))).bfloat16()
    assert network.neuron.node.bias.item() == torch.tensor(1 / 3).double().item()
    output = network(torch.zeros(1, 1, dtype=torch.bfloat16))
    assert output.dtype == torch.bfloat16
    assert network.neuron.node.v.dtype == torch.float32


@pytest.mark.slow
def test_compiled(snn):
    images = torch.randint(-64, 96, (3, 2, 4, 4)) / 64
    expected = snn(images, T)
    compiled = snn.like(snn.network, compile="default")
    torch.testing.assert_close(compiled(images, T), expected, rtol=1e-6, atol=1e-6)
