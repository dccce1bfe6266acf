"""Operators: their sum over time is T·F of the mean input, in any chunks and schedule; max pooling against brute force."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from spikingjelly.activation_based import functional
from torch import nn

from snnconv.nn.graph.sites import Attention, Extremum, MatMul, Product
from snnconv.spiking.operators.base import OperatorOverTime
from snnconv.spiking.operators.max_count import MaxCount
from snnconv.spiking.operators.running_mean import RunningMean
from snnconv.spiking.operators.winner import Winner
from snnconv.spiking.time_loop import keep_samples

SHAPE = (2, 4, 6, 6)
FUNCTIONS = {
    "gelu": nn.GELU(), "silu": nn.SiLU(), "hardswish": nn.Hardswish(), "sigmoid": nn.Sigmoid(), "softmax": nn.Softmax(1),
    "leaky": nn.LeakyReLU(), "layer_norm": nn.LayerNorm(6), "group_norm": nn.GroupNorm(2, 4), "max_pool": nn.MaxPool2d(2),
    "adaptive": nn.AdaptiveMaxPool2d(2), "lp": nn.LPPool2d(2, 2),
    "product": Product(), "matmul": MatMul(), "attention": Attention(), "extremum": Extremum(),
}  # fmt: skip
SIGNALS = {"product": 2, "matmul": 2, "extremum": 2, "attention": 3}


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=FUNCTIONS)
def case(request):
    """F in float64, and T = 7 steps of its signals."""
    function = copy.deepcopy(FUNCTIONS[request.param]).double()
    for parameter in function.parameters():
        nn.init.normal_(parameter)
    return function, [torch.randn(7, *SHAPE, dtype=torch.float64) for _ in range(SIGNALS.get(request.param, 1))]


def run(operator, signals, chunks=None, mode="m"):
    """All steps through the clock, in chunks of the given lengths."""
    clock = OperatorOverTime(operator).eval()
    functional.reset_net(clock)
    functional.set_step_mode(clock, mode)
    outputs, done = [], 0
    for steps in chunks or [len(signals[0])]:
        clock.timesteps = steps
        parts = [signal[done : done + steps].flatten(0, 1) for signal in signals]
        outputs.append(clock(*parts).unflatten(0, (steps, -1)))
        done += steps
    return torch.cat(outputs)


def test_the_sum_up_to_every_step_is_t_times_the_function_of_the_mean(case):
    function, signals = case
    out = run(RunningMean(function, len(signals)), signals)
    for t in range(1, 8):
        wanted = t * function(*[signal[:t].mean(0) for signal in signals])
        torch.testing.assert_close(out[:t].sum(0), wanted, rtol=1e-12, atol=1e-12)


@given(arrays("float64", (5, 2, 3), elements=st.floats(-1e6, 1e6)), st.sampled_from(["gelu", "sigmoid", "softmax"]))
def test_the_law_holds_for_any_input(values, name):
    signal = torch.from_numpy(values)
    wanted = 5 * FUNCTIONS[name](signal.sum(0) / 5)
    out = run(RunningMean(FUNCTIONS[name]), [signal])
    torch.testing.assert_close(out.sum(0), wanted, rtol=1e-9, atol=1e-9 * (1 + values.__abs__().max()))


def test_without_normalization_the_sum_is_the_function_of_the_sum(case):
    function, signals = case
    out = run(RunningMean(function, len(signals), normalized=False), signals)
    torch.testing.assert_close(out.sum(0), function(*[signal.sum(0) for signal in signals]), rtol=1e-12, atol=1e-12)


def operators(function, signals):
    """Every operator that `function` can become."""
    pools = [MaxCount(function), Winner(function)] if isinstance(function, nn.MaxPool2d | nn.AdaptiveMaxPool2d) else []
    return [RunningMean(function, len(signals)), *pools]


def test_schedules_and_chunks_give_the_same(case):
    function, signals = case
    for operator in operators(function, signals):
        whole = run(operator, signals)
        for chunks, mode in (([3, 4], "m"), ([1] * 7, "m"), ([1] * 7, "s"), ([7], "s")):
            torch.testing.assert_close(run(operator, signals, chunks, mode), whole, rtol=1e-12, atol=1e-12)


def test_autocast_does_not_round_the_function(case):
    """Differences of large sums would keep its error; training in bfloat16 applies autocast to the weights alone."""
    function, signals = case
    function, signals = function.float(), [signal.float() for signal in signals]
    for operator in operators(function, signals):
        expected = run(operator, signals)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(run(operator, signals), expected, rtol=0, atol=0)


def test_samples_can_leave(case):
    """Remaining samples have the same outputs as in a batch of their own."""
    function, signals = case
    for operator in operators(function, signals):
        whole = run(operator, signals)
        functional.set_step_mode(operator, "s")
        operator.reset()
        for t in range(3):
            operator(*[signal[t] for signal in signals])
        keep_samples(operator, torch.tensor([1]))
        rest = torch.stack([operator(*[signal[t, 1:] for signal in signals]) for t in range(3, 7)])
        torch.testing.assert_close(rest, whole[3:, 1:], rtol=1e-12, atol=1e-12)


def test_copies_keep_the_state(case):
    function, signals = case
    for operator in operators(function, signals):
        functional.set_step_mode(operator, "s")
        operator(*[signal[0] for signal in signals])
        others = [copy.deepcopy(operator), pickle.loads(pickle.dumps(operator))]
        wanted = operator(*[signal[1] for signal in signals])
        for other in others:
            assert torch.equal(other(*[signal[1] for signal in signals]), wanted)


def test_samples_do_not_meet(case):
    function, signals = case
    for operator in operators(function, signals):
        whole = run(operator, signals)
        alone = run(operator, [signal[:, :1] for signal in signals])
        torch.testing.assert_close(alone, whole[:, :1], rtol=1e-12, atol=1e-12)


def test_low_precision_keeps_sums_in_float32():
    """0.001 is far below the resolution of bfloat16 next to 1."""
    signal = torch.full((1000, 1, 8), 0.001, dtype=torch.bfloat16)
    function = nn.LayerNorm(8).bfloat16()
    operator = RunningMean(nn.Identity())
    out = run(operator, [signal])
    assert out.dtype == torch.bfloat16
    assert operator.sum0.dtype == torch.float32
    torch.testing.assert_close(out.float().sum(0), signal.float().sum(0), rtol=1e-2, atol=0)
    assert run(RunningMean(function), [signal[:2]]).dtype == torch.bfloat16


# Max pooling of spikes


def spikes(*shape, rate=0.4):
    return 0.75 * (torch.rand(9, *shape) < rate).double()


POOLS = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 1, 1, ceil_mode=True), nn.AdaptiveMaxPool2d(3)]


def windows(pool, height, width):
    """The places that each output of `pool` sees, found by asking it."""
    places = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
    out = pool(places).numel()
    seen = [[] for _ in range(out)]
    for place in range(height * width):
        image = torch.zeros(1, 1, height, width)
        image.view(-1)[place] = 1
        for where in pool(image).flatten().nonzero().flatten().tolist():
            seen[where].append(place)
    return seen


@pytest.mark.parametrize("pool", POOLS)
def test_max_count_grows_with_the_largest_count(pool):
    """By brute force: an output spikes when the largest number of spikes in its window has grown."""
    signal = spikes(2, 1, 5, 5)
    out = run(MaxCount(pool), [signal]).flatten(2)
    counts, largest = torch.zeros(2, 25), torch.zeros(2, out.shape[2])
    seen = windows(pool, 5, 5)
    for t, step in enumerate(signal.flatten(2)):
        for n in range(2):
            counts[n] += (step.flatten(1)[n] > 0).float()
            for o, places in enumerate(seen):
                grown = max(counts[n, place] for place in places)
                assert out[t, n, o] == (0.75 if grown > largest[n, o] else 0)
                largest[n, o] = grown


@pytest.mark.parametrize("pool", POOLS)
def test_the_winner_is_the_first_of_the_most_active(pool):
    signal = spikes(2, 1, 5, 5)
    out = run(Winner(pool), [signal]).flatten(2)
    sums, seen = torch.zeros(2, 25, dtype=torch.float64), windows(pool, 5, 5)
    for t, step in enumerate(signal.flatten(2)):
        sums += step
        for n in range(2):
            for o, places in enumerate(seen):
                leader = max(places, key=lambda place: (sums[n, place].item(), -place))
                assert out[t, n, o] == step[n, leader]


def test_max_count_is_the_running_mean_of_max_pooling():
    signal = torch.randn(9, 2, 3, 6, 6, dtype=torch.float64)
    pool = nn.MaxPool2d(3, 2, 1)
    torch.testing.assert_close(run(MaxCount(pool), [signal]), run(RunningMean(pool), [signal]), rtol=1e-12, atol=1e-12)


def test_only_max_pooling_has_a_winner():
    with pytest.raises(ValueError, match="GELU: operators=winner supports only max pooling"):
        Winner(nn.GELU())
