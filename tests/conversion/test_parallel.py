"""Parallel conversion: exactly QCFS with T levels, neuron by neuron and for whole networks."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional
from torch import nn

from snnconv.conversion.methods.parallel import convert
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.nn.functional import qcfs, spike_count
from snnconv.spiking.neurons.parallel import Parallel, summed

SCHEDULES = [{"schedule": "step"}, {"schedule": "layer", "chunk": 3}]


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def with_levels(ann: nn.Module, levels: int) -> nn.Module:
    for module in ann.modules():
        if isinstance(module, QCFS):
            module.levels = levels
    return ann


eighths = st.lists(st.integers(-64, 64).map(lambda k: k / 8), min_size=1, max_size=16)


@given(currents=eighths, exponent=st.integers(-2, 2))
def test_spikes_of_the_formula(currents, exponent):
    """Spike for spike, in rational numbers; and as many as QCFS has levels."""
    theta, timesteps = Fraction(2) ** exponent, len(currents)
    mean = sum(map(Fraction, currents)) / timesteps
    expected = [int((timesteps * mean + theta / 2) / t >= theta) for t in range(1, timesteps + 1)]
    neuron = Parallel(float(theta))
    output = neuron(torch.tensor(currents, dtype=torch.float64).view(-1, 1)).flatten()
    assert (output / float(theta)).tolist() == expected
    assert expected == sorted(expected, reverse=True)  # front-loaded
    assert neuron.node.v.item() == sum(currents) + float(theta) / 2 - output.sum().item()


@given(current=st.integers(-64, 64), exponent=st.integers(-2, 2), timesteps=st.sampled_from([1, 2, 4, 8, 16]))
def test_counts_are_those_of_qcfs(current, exponent, timesteps):
    """However the current is spread over time: here all of it comes in the last step."""
    x, threshold = torch.tensor([current / 8], dtype=torch.float64), torch.tensor(2.0**exponent, dtype=torch.float64)
    late = torch.zeros(timesteps, 1, dtype=torch.float64)
    late[-1] = timesteps * x
    output = Parallel(threshold)(late)
    same(output.sum(0) / threshold, spike_count(x, threshold, timesteps))
    same(output.mean(0), qcfs(x, threshold, timesteps))


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("timesteps", [1, 2, 4, 16])
@torch.no_grad()
def test_a_network_is_the_ann_of_t_levels(exact_network, exact_images, kind, timesteps):
    """Without any rounding, hence with zero tolerance."""
    for seed in range(4):
        ann, images = exact_network(kind, seed=seed), exact_images(4, seed=seed)
        for simulate in SCHEDULES:
            for fold in (False, True):
                snn = convert(ann, [], simulate={**simulate, "fold_threshold": fold})
                same(snn(images, timesteps).mean(0), with_levels(ann, timesteps)(images))


@pytest.mark.parametrize("timesteps", [3, 5, 6, 7])
@torch.no_grad()
def test_any_number_of_levels(exact_network, exact_images, timesteps):
    """Thirds are rounded in binary; with weights that make ties impossible that decides about no spike."""
    ann, images = exact_network("residual").double(), exact_images(4).double()
    for weight in ann.parameters():
        weight.add_(0.01 * torch.rand_like(weight))
    logits = convert(ann, [])(images, timesteps).mean(0)
    torch.testing.assert_close(logits, with_levels(ann, timesteps)(images), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_at_t_equal_l_it_predicts_what_the_ann_predicts(exact_network, exact_images):
    ann, images = exact_network("plain", seed=4), exact_images(32)
    logits = convert(ann, [])(images, 4).mean(0)
    same(logits, ann(images))
    assert logits.argmax(1).unique().numel() == 3  # and this says something


def test_a_threshold_for_each_channel():
    current, thresholds = torch.randint(-16, 17, (6, 3, 2, 4, 4)) / 8, torch.tensor([0.5, 2.0])
    whole = Parallel(thresholds)(current)
    for channel, threshold in enumerate(thresholds.tolist()):
        same(whole[:, :, channel], Parallel(threshold)(current[:, :, channel]))


def test_bfloat16_currents_are_added_in_float32():
    """1/16 is lost when added to 16 in bfloat16; sixteen times lost, a spike is missing."""
    current = torch.full((17, 1), 1 / 16, dtype=torch.bfloat16)
    current[0] = 16.0
    output = Parallel(1.0)(current)
    assert output.dtype == torch.bfloat16
    assert output.float().sum().item() == 17.0  # ½ + 16 + 1 = 17.5


def test_says_what_it_costs(exact_network):
    snn = convert(exact_network(), [])
    assert (snn.timing.anytime, snn.timing.lookahead, snn.latency.waits, snn.latency.warmup) == (False, None, True, 0)


def test_single_steps_are_refused():
    with pytest.raises(ValueError, match="step_mode"):
        functional.set_step_mode(Parallel(1.0), "s")


@pytest.mark.slow
@torch.no_grad()
def test_compiled(exact_network, exact_images):
    ann, images = exact_network("residual"), exact_images(5)
    snn = convert(ann, [], simulate={"compile": "default"})
    for part in (images, images[:2]):
        same(snn(part, 4).mean(0), ann(part))


def test_takes_qcfs_only(exact_network):
    with pytest.raises(ValueError, match="has no QCFS"):
        convert(exact_network(activation=ReLU), [])


@pytest.mark.parametrize("shape", [(5, 2, 3, 4, 6), (4, 3, 1, 2, 2), (3, 2, 7), (6, 5), (4,)])
def test_sums_over_time_lie_in_memory_as_the_steps_do(shape):
    """As channels_last does in the first shape, where torch's own sum does not."""
    steps = torch.randint(-8, 9, shape).float() / 4
    last_channels = steps.movedim(2, -1).contiguous().movedim(-1, 2) if len(shape) > 2 else steps
    total = summed(last_channels, torch.float64)
    same(total, sum(step.double() for step in steps))
    same(summed(steps, torch.float64), total)
    assert total.stride() == last_channels[0].stride()


def test_the_neuron_reads_nothing_against_the_order_of_memory(monkeypatch):
    current = torch.rand(4, 2, 3, 5, 5).movedim(2, -1).contiguous().movedim(-1, 2)
    monkeypatch.setattr(torch.Tensor, "sum", only_in_order(torch.Tensor.sum))
    neuron = Parallel(0.5)
    assert neuron(current).stride() == current.stride()
    assert neuron.node.v.stride() == current[0].stride()


def only_in_order(original):
    """Tensor.sum, refusing what does not lie in the order of its axes."""

    def checked(tensor, *arguments, **settings):
        assert list(tensor.stride()) == sorted(tensor.stride(), reverse=True)
        return original(tensor, *arguments, **settings)

    return checked
