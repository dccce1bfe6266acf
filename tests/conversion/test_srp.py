"""SRP against the paper, step by step in plain loops."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional
from torch import nn

from snnconv.conversion.methods.qcfs import convert as qcfs
from snnconv.conversion.methods.srp import convert
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.neurons.residual_potential import ResidualPotential

SCHEDULES = [{"schedule": "step"}, {"schedule": "layer", "chunk": 3}, {"schedule": "layer", "chunk": 100}]


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


class Literal(nn.Module):
    """Integrate and fire in units of θ; after `warmup` steps a gate is kept and the potential is ½ again."""

    def __init__(self, threshold: float, warmup: int) -> None:
        super().__init__()
        self.threshold, self.warmup, self.t, self.v, self.gate = threshold, warmup, 0, 0.5, None

    def forward(self, x):
        self.v = self.v + x / self.threshold
        spikes = torch.zeros_like(x)
        spikes[self.v >= 1] = 1.0
        self.v = self.v - spikes
        self.t += 1
        if self.t == self.warmup:
            self.gate = torch.zeros_like(x)
            self.gate[self.v > 1e-3] = 1.0
            self.v = 0.5
        elif self.t > self.warmup:
            spikes = spikes * self.gate
        return spikes * self.threshold


def literally(ann: nn.Module, images: torch.Tensor, warmup: int, timesteps: int) -> torch.Tensor:
    """The whole network τ + T times; what comes after τ is the answer."""
    network = copy.deepcopy(ann)
    for path, module in ann.named_modules():
        if isinstance(module, QCFS):
            parent, _, leaf = path.rpartition(".")
            setattr(network.get_submodule(parent), leaf, Literal(module.threshold.item(), warmup))
    with torch.no_grad():
        return torch.stack([network(images) for _ in range(warmup + timesteps)])[warmup:]


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize(("seed", "warmup"), [(0, 4), (1, 1), (2, 2), (3, 7)])
def test_equals_the_literal_method(exact_network, exact_images, kind, seed, warmup):
    ann, images = exact_network(kind, seed=seed), exact_images(4, seed=seed)
    expected = literally(ann, images, warmup, 6)
    for simulate in SCHEDULES:
        for fold in (False, True):
            same(convert(ann, [], warmup=warmup, simulate={**simulate, "fold_threshold": fold})(images, 6), expected)


def test_the_gate_matters(exact_network, exact_images):
    """Somewhere in this network it silences a neuron that plain integrate-and-fire lets fire."""
    ann, images = exact_network("residual", seed=1), exact_images(4, seed=1)
    assert literally(ann, images, 2, 6).ne(qcfs(ann, [], neuron=IntegrateFire)(images, 6)).any()


def test_by_hand():
    """θ = 1, τ = 2, three neurons: v(2) = ½, −¼ and 0, so that only the first may fire afterwards."""
    current = torch.tensor([[1.0, 1.0, 0.5], [0.0, -0.75, 0.0], [0.5, 0.5, 0.5], [0.5, 9.0, 9.0]])
    neuron = ResidualPotential(1.0, warmup=2)
    assert neuron(current).tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    functional.reset_net(neuron)
    assert neuron(current)[0].tolist() == [1, 1, 1]


currents = st.lists(
    st.lists(st.integers(-32, 32).map(lambda k: k / 8), min_size=4, max_size=4), min_size=1, max_size=12
)


@given(currents=currents, warmup=st.integers(1, 6), cut=st.integers(0, 12))
def test_the_count_of_steps_survives_chunks_and_resets(currents, warmup, cut):
    current = torch.tensor(currents, dtype=torch.float64)
    neuron, literal = ResidualPotential(0.5, warmup), Literal(0.5, warmup)
    expected = torch.stack([literal(step) for step in current])
    for mode in ("s", "m"):
        functional.set_step_mode(neuron, mode)
        functional.reset_net(neuron)
        parts = [neuron(part) for part in (current[:cut], current[cut:]) if len(part)]
        same(torch.cat(parts), expected)


def test_a_threshold_for_each_channel():
    current, thresholds = torch.randint(-16, 17, (6, 3, 2, 4, 4)) / 8, torch.tensor([0.5, 2.0])
    whole = ResidualPotential(thresholds, warmup=3)(current)
    for channel, threshold in enumerate(thresholds.tolist()):
        same(whole[:, :, channel], ResidualPotential(threshold, warmup=3)(current[:, :, channel]))


def test_float32_potentials_stay_float32():
    neuron = ResidualPotential(1.0, warmup=1)
    for dtype, kept in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        functional.reset_net(neuron)
        assert neuron(torch.ones(3, 2, dtype=dtype)).dtype == dtype
        assert {neuron.node.v.dtype, neuron.node.step.dtype} == {kept}


def test_samples_may_leave_during_the_counted_steps(exact_network, exact_images):
    images = exact_images(5)
    snn = convert(exact_network("residual"), [], warmup=3, simulate={"schedule": "step"})
    whole, run = snn(images, 6), snn.run(images, 6)
    got = [next(run), run.send(torch.tensor([0, 2, 3])), run.send(torch.tensor([2]))]
    for t, (chunk, left) in enumerate(zip(got, ([0, 1, 2, 3, 4], [0, 2, 3], [3]), strict=True)):
        same(chunk, whole[t : t + 1, left])


def test_says_what_it_costs(exact_network):
    snn = convert(exact_network(), [], warmup=5)
    assert (snn.latency.warmup, snn.timing.discard, snn.steps(8), snn.timing.anytime, snn.latency.waits) == (
        5,
        5,
        13,
        True,
        False,
    )


@pytest.mark.slow
def test_large_layers_in_one_kernel():
    """Results of Inductor, used for many elements, equal those of plain PyTorch, used for few."""
    current = torch.randint(-16, 24, (6, 40, 1000)) / 8
    whole = ResidualPotential(1.0, warmup=2)(current)
    for part, expected in zip(current.split(10, dim=1), whole.split(10, dim=1), strict=True):
        same(ResidualPotential(1.0, warmup=2)(part), expected)


@pytest.mark.slow
def test_compiled(exact_network, exact_images):
    ann, images = exact_network("residual"), exact_images(5)
    for schedule in SCHEDULES[:2]:
        snn = convert(ann, [], warmup=2, simulate={**schedule, "compile": "default"})
        same(snn(images, 6), literally(ann, images, 2, 6))
        same(snn(images[:2], 6), literally(ann, images, 2, 6)[:, :2])


@pytest.mark.parametrize("warmup", [0, -1])
def test_a_warmup_has_a_step(exact_network, warmup):
    with pytest.raises(ValueError, match=rf"method\.warmup={warmup}: must be .* method=qcfs"):
        convert(exact_network(), [], warmup=warmup)


def test_takes_qcfs_only(exact_network):
    with pytest.raises(ValueError, match="has no QCFS"):
        convert(exact_network(activation=ReLU), [], warmup=4)
