"""COS against the paper and its authors' amounts, neuron by neuron in lists of Python floats."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional
from torch import nn

from snnconv.conversion.methods.cos import convert
from snnconv.conversion.methods.qcfs import convert as qcfs
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.neurons.offset_spikes import OffsetSpikes

SCHEDULES = [{"schedule": "step"}, {"schedule": "layer", "chunk": 3}, {"schedule": "layer", "chunk": 100}]


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def fire(current: list[float], v: float) -> tuple[list[int], list[float], float]:
    """Integrate and fire in units of θ: spikes, potentials before the reset, the last potential."""
    spikes, before = [], []
    for x in current:
        v += x
        before.append(v)
        spikes.append(int(v >= 1))
        v -= spikes[-1]
    return spikes, before, v


def corrected(current: list[float], rho: int, iterations: int) -> list[int]:
    """Spikes of one neuron; decisions depend on the first trial, as in the authors' variants for several spikes."""
    v_initial, first, count = 0.5, 0.0, 0
    for k in range(1, iterations + 1):
        spikes, before, v = fire(current[:rho], v_initial)
        if k == 1:
            first, count = v, sum(spikes)
        with_spike = [u for u, s in zip(before, spikes, strict=True) if s]
        without = [u for u, s in zip(before, spikes, strict=True) if not s]
        if first < -(k - 1) and count > k - 1:
            v_initial -= max(min(with_spike) - 0.999, 1.0)
        elif first >= k and without:
            v_initial += max(1.001 - max(without), 1.0)
    return fire(current, v_initial)[0]


class Literal(nn.Module):
    """[T·N, …] → θ·spikes, one neuron of one image after the other."""

    def __init__(self, threshold: float, timesteps: int, rho: int, iterations: int) -> None:
        super().__init__()
        self.threshold, self.timesteps, self.rho, self.iterations = threshold, timesteps, rho, iterations

    def forward(self, x):
        columns = (x / self.threshold).unflatten(0, (self.timesteps, -1)).flatten(1).T.tolist()
        spikes = [corrected(column, self.rho, self.iterations) for column in columns]
        return torch.tensor(spikes, dtype=x.dtype).T.reshape(x.shape) * self.threshold


@torch.no_grad()
def literally(ann: nn.Module, images: torch.Tensor, rho: int, iterations: int, timesteps: int) -> torch.Tensor:
    """Layer by layer for max(T, ρ) steps, of which the first T are the answer."""
    network, steps = copy.deepcopy(ann), max(timesteps, rho)
    for path, module in ann.named_modules():
        if isinstance(module, QCFS):
            parent, _, leaf = path.rpartition(".")
            setattr(network.get_submodule(parent), leaf, Literal(module.threshold.item(), steps, rho, iterations))
    return network(images.repeat(steps, 1, 1, 1)).unflatten(0, (steps, -1))[:timesteps]


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize(("seed", "rho", "iterations"), [(0, 4, 1), (1, 1, 1), (2, 2, 2), (3, 6, 3), (4, 8, 8)])
def test_equals_the_literal_method(exact_network, exact_images, kind, seed, rho, iterations):
    ann, images = exact_network(kind, seed=seed).double(), exact_images(3, seed=seed).double()
    for timesteps in (2, 7):
        expected = literally(ann, images, rho, iterations, timesteps)
        for simulate in SCHEDULES:
            for fold in (False, True):
                settings = {**simulate, "fold_threshold": fold}
                snn = convert(ann, [], warmup=rho, iterations=iterations, simulate=settings)
                same(snn(images, timesteps), expected)


def test_correction_matters(exact_network, exact_images):
    ann, images = exact_network("residual"), exact_images(4)
    one = convert(ann, [], warmup=4)(images, 4)
    assert one.ne(qcfs(ann, [], neuron=IntegrateFire)(images, 4)).any()
    assert one.ne(convert(ann, [], warmup=4, iterations=4)(images, 4)).any()


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("rho", [1, 2, 4, 8])
def test_as_many_iterations_as_inputs_give_the_ann_of_as_many_levels(exact_network, exact_images, kind, rho):
    """Spikes arrive as unevenly as ever, and yet the mean logits at T = ρ are the ANN's."""
    for seed in range(3):
        ann, images = exact_network(kind, seed=seed), exact_images(4, seed=seed)
        mean = convert(ann, [], warmup=rho, iterations=rho)(images, rho).mean(0)
        for module in ann.modules():
            if isinstance(module, QCFS):
                module.levels = rho
        same(mean, ann(images).detach())


currents = st.lists(st.integers(-32, 32).map(lambda k: k / 8), min_size=1, max_size=10)


@given(currents=currents, exponent=st.integers(-1, 2), data=st.data())
def test_each_iteration_brings_every_count_one_spike_nearer(currents, exponent, data):
    threshold, current = 2.0**exponent, torch.tensor(currents, dtype=torch.float64).view(-1, 1)
    rho = len(current)
    iterations = data.draw(st.integers(1, rho))
    count = IntegrateFire(threshold)(current).sum().item() / threshold
    even = min(max(int((current.sum() / threshold + 0.5).floor()), 0), rho)
    expected = min(max(even, count - iterations), count + iterations)
    assert OffsetSpikes(threshold, rho, iterations)(current).sum().item() / threshold == expected


def test_one_spike_less_by_hand():
    """θ = 1: 1½ 1½ −1 −1 fires twice and ends at −½; the least charge that fired is 2, so v(0) = ½ − 1.001."""
    neuron = OffsetSpikes(1.0, warmup=4)
    assert neuron(torch.tensor([[1.5], [1.5], [-1.0], [-1.0]])).flatten().tolist() == [0, 1, 0, 0]
    assert neuron.node.v.item() == pytest.approx(-0.501)


def test_one_spike_more_by_hand():
    """θ = 1: −1 −1 2 2 fires once and ends at 1½; the largest charge without a spike is ½, so v(0) = ½ + 1."""
    neuron = OffsetSpikes(1.0, warmup=4)
    assert neuron(torch.tensor([[-1.0], [-1.0], [2.0], [2.0]])).flatten().tolist() == [0, 0, 1, 1]
    assert neuron.node.v.item() == 1.5


def test_a_neuron_that_always_fires_is_left_alone():
    """It cannot fire more often in ρ steps; afterwards it goes on with what it has."""
    neuron = OffsetSpikes(1.0, warmup=2)
    assert neuron(torch.tensor([[2.0], [2.0], [0.0], [0.0], [0.0], [0.0]])).flatten().tolist() == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("cuts", [(3,), (4, 5), (3, 4, 5)])
def test_later_chunks_go_on(cuts):
    current = torch.randint(-16, 24, (6, 3, 2, 4, 4)) / 8
    whole = OffsetSpikes(1.0, warmup=3)(current)
    neuron = OffsetSpikes(1.0, warmup=3)
    for _ in range(2):
        same(torch.cat([neuron(chunk) for chunk in current.tensor_split(cuts)]), whole)
        functional.reset_net(neuron)


def test_a_threshold_for_each_channel():
    current, thresholds = torch.randint(-16, 17, (6, 3, 2, 4, 4)) / 8, torch.tensor([0.5, 2.0])
    whole = OffsetSpikes(thresholds, warmup=4, iterations=2)(current)
    for channel, threshold in enumerate(thresholds.tolist()):
        same(whole[:, :, channel], OffsetSpikes(threshold, warmup=4, iterations=2)(current[:, :, channel]))


def test_says_what_it_costs(exact_network):
    snn = convert(exact_network(), [], warmup=5)
    assert (snn.latency.warmup, snn.latency.waits, snn.timing.anytime, snn.timing.discard) == (5, True, True, 0)
    assert (snn.steps(3), snn.steps(8)) == (5, 8)


def test_samples_may_leave(exact_network, exact_images):
    images = exact_images(5)
    snn = convert(exact_network("residual"), [], warmup=2, simulate={"schedule": "step"})
    whole, run = snn(images, 6), snn.run(images, 6)
    same(next(run), whole[:2])
    same(run.send(torch.tensor([0, 2, 3])), whole[2:3, [0, 2, 3]])
    same(run.send(torch.tensor([2])), whole[3:4, [3]])


@pytest.mark.slow
def test_large_layers_in_one_kernel():
    """Results of Inductor, used for many elements, equal those of plain PyTorch, used for few."""
    current = torch.randint(-16, 24, (6, 40, 1000)) / 8
    whole = OffsetSpikes(1.0, warmup=4, iterations=2)(current)
    for part, expected in zip(current.split(10, dim=1), whole.split(10, dim=1), strict=True):
        same(OffsetSpikes(1.0, warmup=4, iterations=2)(part), expected)


@pytest.mark.slow
def test_compiled(exact_network, exact_images):
    ann, images = exact_network("residual"), exact_images(5)
    for schedule in SCHEDULES[:2]:
        snn = convert(ann, [], warmup=2, simulate={**schedule, "compile": "default"})
        same(snn(images, 6), literally(ann, images, 2, 1, 6))
        same(snn(images[:2], 6), literally(ann, images, 2, 1, 6)[:, :2])


def test_too_few_inputs_at_once():
    with pytest.raises(ValueError, match="the first call needs at least 4 inputs"):
        OffsetSpikes(1.0, warmup=4)(torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": 0}, r"method\.warmup=0: must be .* method=qcfs"),
        ({"warmup": -2}, r"method\.warmup=-2"),
        ({"iterations": 0}, r"method\.iterations=0: must be an integer from 1 to 4"),
        ({"warmup": 3, "iterations": 4}, r"method\.iterations=4: must be an integer from 1 to 3"),
    ],
)
def test_settings_out_of_range(exact_network, settings, message):
    with pytest.raises(ValueError, match=message):
        convert(exact_network(), [], **settings)


def test_takes_qcfs_only(exact_network):
    with pytest.raises(ValueError, match="has no QCFS"):
        convert(exact_network(activation=ReLU), [])
