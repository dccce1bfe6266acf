"""Neurons: what every one promises, and integrate-and-fire."""

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import base, functional

from snnconv.nn.functional import qcfs
from snnconv.spiking.neurons.integrate_fire import IntegrateFire, IntegrateFireNode
from snnconv.spiking.neurons.no_debt import NoDebtIntegrateFire

DYADIC = st.integers(-2048, 2048).map(lambda k: k / 256)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture
def make(compose_config, any_neuron):
    """The neuron of conf/neuron/<any_neuron>.yaml."""
    return instantiate(compose_config(f"neuron={any_neuron}").neuron)


@pytest.fixture
def current():
    """[T, N, C, H, W] = [6, 3, 2, 4, 4] around a threshold of 1."""
    return torch.randint(-64, 96, (6, 3, 2, 4, 4)) / 64


# the protocol, for every yaml


def test_emits_multiples_of_the_threshold(make, current):
    output = make(threshold=0.5)(current)
    assert output.shape == current.shape
    assert output.count_nonzero() > 0
    same(output / 0.5, (output / 0.5).round())


def test_reset_net_brings_the_first_answer_back(make, current):
    neuron = make(threshold=1.0)
    first = neuron(current)
    assert any(isinstance(module, base.MemoryModule) for module in neuron.modules())  # SpikingJelly's own tools see it
    functional.reset_net(neuron)
    same(neuron(current), first)


def test_both_step_modes_emit_the_same_spikes(make, current):
    outputs = []
    for mode in ("s", "m"):
        neuron = make(threshold=1.0)
        functional.set_step_mode(neuron, mode)
        outputs.append(neuron(current))
    same(*outputs)


@pytest.mark.parametrize("cuts", [(1,), (2, 4), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_state_carries_over_between_chunks(make, current, cuts, mode):
    whole = make(threshold=1.0)(current)
    neuron = make(threshold=1.0)
    functional.set_step_mode(neuron, mode)
    same(torch.cat([neuron(chunk) for chunk in current.tensor_split(cuts)]), whole)


def test_another_batch_size_after_a_reset(make, current):
    neuron = make(threshold=1.0)
    whole = neuron(current)
    functional.reset_net(neuron)
    same(neuron(current[:, :2]), whole[:, :2])


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_a_threshold_is_positive(make, threshold):
    with pytest.raises(ValueError, match="threshold"):
        make(threshold=threshold)


# integrate-and-fire


@given(current=st.floats(-8, 8, width=32), exponent=st.integers(-2, 2), timesteps=st.integers(1, 32))
def test_constant_current_gives_qcfs(current, exponent, timesteps):
    threshold = 2.0**exponent  # representable, so equality is exact
    x = torch.tensor([current], dtype=torch.float64)
    output = IntegrateFire(threshold)(x.expand(timesteps, 1))  # [T, N]
    expected = qcfs(x, torch.tensor(threshold, dtype=x.dtype), levels=timesteps)
    torch.testing.assert_close(output.mean(0), expected, rtol=0, atol=0)


@given(currents=st.lists(DYADIC, min_size=1, max_size=32), exponent=st.integers(-2, 2), v0=st.sampled_from([0.0, 0.5]))
def test_nothing_is_lost(currents, exponent, v0):
    """v(T) = v(0) + Σ current − θ Σ spikes."""
    threshold = 2.0**exponent
    current = torch.tensor(currents, dtype=torch.float64).view(-1, 1)
    neuron = IntegrateFire(threshold, v_initial=v0)
    output = neuron(current)
    same(neuron.node.v, v0 * threshold + current.sum(0) - output.sum(0))


def literal_without_debt(currents: list[float], threshold: float) -> list[float]:
    v, fired, output = threshold / 2, False, []
    for x in currents:
        v += x
        spike = v >= threshold
        v -= threshold * spike
        fired = fired or spike
        if not fired and v < 0:
            v = 0.0
        output.append(threshold * spike)
    return output


@given(currents=st.lists(DYADIC, min_size=1, max_size=32), exponent=st.integers(-2, 2))
def test_without_debt_equals_the_loop(currents, exponent):
    threshold = 2.0**exponent
    output = NoDebtIntegrateFire(threshold)(torch.tensor(currents, dtype=torch.float64).view(-1, 1))
    assert output.flatten().tolist() == literal_without_debt(currents, threshold)


@given(current=st.floats(-8, 8, width=32), timesteps=st.integers(1, 16))
def test_constant_current_leaves_no_debt(current, timesteps):
    x = torch.full((timesteps, 1), current, dtype=torch.float64)
    same(NoDebtIntegrateFire(1.0)(x), IntegrateFire(1.0)(x))


def test_unevenness_by_hand():
    """θ = 1, T = 4, mean current ¼: an even current fires once, an uneven one twice and ends at v = −½."""
    neuron = IntegrateFire(1.0)
    assert neuron(torch.tensor([[0.25], [0.25], [0.25], [0.25]])).flatten().tolist() == [0, 1, 0, 0]
    functional.reset_net(neuron)
    assert neuron(torch.tensor([[1.5], [1.5], [-1.0], [-1.0]])).flatten().tolist() == [1, 1, 0, 0]
    assert neuron.node.v.item() == -0.5


def test_fires_at_the_threshold_not_only_above():
    assert IntegrateFire(1.0)(torch.tensor([[0.5]])).item() == 1.0


def test_half_precision_current_float32_membrane():
    """1/16 is lost when added to 16 in bfloat16; sixteen times lost, a spike is missing."""
    current = torch.full((17, 1), 1 / 16, dtype=torch.bfloat16)
    current[0] = 8.0
    neuron = IntegrateFire(threshold=17.0)
    output = neuron(current)
    assert neuron.node.v.dtype == torch.float32
    assert output.sum().item() == 17.0  # 8.5 + 8 + 16/16 = 17.5 ≥ 17


def test_float64_stays_float64():
    neuron = IntegrateFire(1.0)
    assert neuron(torch.full((2, 1), 0.3, dtype=torch.float64)).dtype == torch.float64
    assert neuron.node.v.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [3, 40])  # below and above what is compiled into one kernel
@torch.no_grad()
def test_whether_somebody_looks_makes_no_difference(dtype, size):
    """With a hook on its node a neuron scales spikes apart, without it as they are made; the layout may change midway."""
    torch.manual_seed(0)
    current = torch.randn(6, 4, 8, size, size).to(dtype)
    bare, seen, emitted, potentials = IntegrateFire(0.7), IntegrateFire(0.7), [], []
    seen.node.register_forward_hook(lambda module, inputs, spikes: emitted.append(spikes))
    for neuron in (bare, seen):
        functional.set_step_mode(neuron, "s")
    for t, step in enumerate(current):
        shaped = step.contiguous(memory_format=torch.channels_last if t % 3 else torch.contiguous_format).unsqueeze(0)
        assert torch.equal(bare(shaped), seen(shaped))
        assert torch.equal(bare.node.v, seen.node.v)
        potentials.append((bare.node.v, bare.node.v.clone()))
    assert all(torch.equal(kept, then) for kept, then in potentials)
    assert set(torch.stack(emitted).unique().tolist()) == {0.0, 1.0}


@torch.no_grad()
def test_another_node_in_the_place_of_the_ordinary_one_is_called():
    class Always(IntegrateFireNode):
        def single_step_forward(self, x):
            return torch.ones_like(x)

    neuron = IntegrateFire(0.5)
    neuron.node = Always(0.5, 0.0)
    functional.set_step_mode(neuron, "s")
    assert neuron(torch.zeros(2, 3)).tolist() == [[0.5] * 3] * 2


def test_a_new_batch_size_starts_from_v_initial():
    """SpikingJelly's own node would start from 0 here."""
    neuron = IntegrateFire(1.0)
    neuron(torch.zeros(1, 3))
    neuron(torch.zeros(1, 5))
    assert neuron.node.v.tolist() == [0.5] * 5


@pytest.mark.parametrize(
    "value", ["oops", None, [1.0, "a"], float("nan"), float("inf"), torch.tensor([0.5, torch.nan])]
)
def test_a_start_that_is_no_number_is_refused(value, unchecked):
    with pytest.raises(ValueError, match=r"v_initial=.*: must be a finite number"):
        IntegrateFire(1.0, value)
