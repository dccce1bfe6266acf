"""The formulas.  Numbers here are k/256 and thresholds 2^k, so float64 arithmetic is exact and equality means equality."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from snnconv.nn.functional import at_least, clip, conversion_errors, qcfs, spike_count

DYADIC = st.integers(-2048, 2048).map(lambda k: k / 256)  # -8 … 8
THRESHOLD = st.integers(-2, 2).map(lambda k: 2.0**k)
LEVELS = st.sampled_from([1, 2, 4, 8, 16])  # L must divide exactly too


def f64(value):
    return torch.tensor(value, dtype=torch.float64)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# qcfs


def test_qcfs_by_hand():
    x = f64([-1.0, 0.0, 0.12, 0.125, 0.3, 0.5, 0.87, 0.875, 1.0, 9.0])
    same(qcfs(x, f64(1.0), 4), f64([0.0, 0.0, 0.0, 0.25, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]))


@given(x=DYADIC, threshold=THRESHOLD, levels=st.integers(1, 64))
def test_output_is_one_of_the_levels(x, threshold, levels):
    step = qcfs(f64([x]), f64(threshold), levels).item() * levels / threshold
    assert round(step) in range(levels + 1)
    assert step == pytest.approx(round(step), rel=1e-15, abs=0)


@given(x=st.floats(-8, 8, width=32), threshold=THRESHOLD, levels=st.integers(1, 64), exponent=st.integers(-3, 3))
def test_scaling_the_unit_scales_the_output(x, threshold, levels, exponent):
    a = 2.0**exponent
    same(qcfs(f64([a * x]), f64(a * threshold), levels), a * qcfs(f64([x]), f64(threshold), levels))


@given(x=DYADIC, threshold=THRESHOLD, levels=LEVELS)
def test_quantization_moves_at_most_half_a_level(x, threshold, levels):
    x, threshold = f64([x]), f64(threshold)
    assert (qcfs(x, threshold, levels) - clip(x, threshold)).abs() <= threshold / (2 * levels)


@given(x=DYADIC, y=DYADIC, threshold=THRESHOLD, levels=st.integers(1, 64))
def test_qcfs_never_decreases(x, y, threshold, levels):
    low, high = qcfs(f64([min(x, y), max(x, y)]), f64(threshold), levels)
    assert low <= high


# its gradient


def contract(x: float, threshold: float, levels: int) -> tuple[float, float, float]:
    """y, dy/dx and dy/dθ, word for word from the numerics section of the architecture."""
    q = min(max(math.floor(levels * x / threshold + 0.5), 0), levels) / levels
    if x < 0:
        return threshold * q, 0.0, 0.0
    if x > threshold:
        return threshold * q, 0.0, 1.0
    return threshold * q, 1.0, q - x / threshold


@given(xs=st.lists(DYADIC, min_size=1, max_size=20), threshold=THRESHOLD, levels=LEVELS)
def test_gradient_is_the_contract(xs, threshold, levels):
    x, theta = f64(xs).requires_grad_(), f64(threshold).requires_grad_()
    weights = torch.arange(1.0, len(xs) + 1, dtype=torch.float64)
    y = qcfs(x, theta, levels)
    (y * weights).sum().backward()
    outputs, dx, dtheta = (f64(column) for column in zip(*(contract(v, threshold, levels) for v in xs), strict=True))
    same(y.detach(), outputs)
    same(x.grad, dx * weights)
    same(theta.grad, (dtheta * weights).sum())


@pytest.mark.parametrize("x", [-0.7, -0.1, 0.05, 0.13, 0.31, 0.77, 1.1, 1.4])
@pytest.mark.parametrize("levels", [1, 3, 8])
def test_gradient_is_the_slope_of_the_surrogate(x, levels):
    """Straight through the floor: the rounding error stays where it is while x and θ move."""
    threshold, h = 0.9, 1e-6
    rounding = contract(x, threshold, levels)[0] / threshold - min(max(x / threshold, 0), 1)

    def surrogate(x, threshold):
        return threshold * (min(max(x / threshold, 0), 1) + rounding)

    leaves = f64([x]).requires_grad_(), f64(threshold).requires_grad_()
    qcfs(*leaves, levels).sum().backward()
    slope_x = (surrogate(x + h, threshold) - surrogate(x - h, threshold)) / (2 * h)
    slope_theta = (surrogate(x, threshold + h) - surrogate(x, threshold - h)) / (2 * h)
    assert leaves[0].grad.item() == pytest.approx(slope_x, abs=1e-8)
    assert leaves[1].grad.item() == pytest.approx(slope_theta, abs=1e-8)


def test_only_what_needs_a_gradient_gets_one():
    x, theta = f64([0.3]), f64(1.0).requires_grad_()
    qcfs(x, theta, 4).sum().backward()
    same(theta.grad, f64(0.25 - 0.3))
    x.requires_grad_()
    qcfs(x, theta.detach(), 4).sum().backward()
    same(x.grad, f64([1.0]))


# precision, size and layout


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_quantized_in_float32(dtype):
    x = (torch.rand(4096) * 4).to(dtype).requires_grad_()
    theta = torch.tensor(3.3, requires_grad=True)
    y = qcfs(x, theta, 64)
    assert y.dtype == dtype
    same(y.detach(), qcfs(x.detach().float(), theta.detach(), 64).to(dtype))
    y.float().sum().backward()
    assert (x.grad.dtype, theta.grad.dtype) == (dtype, torch.float32)
    wide = x.detach().float().requires_grad_()
    other = theta.detach().clone().requires_grad_()
    qcfs(wide, other, 64).sum().backward()
    same(x.grad.float(), wide.grad)
    torch.testing.assert_close(theta.grad, other.grad, rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "with gaps"])
def test_a_large_tensor_is_many_small_ones(layout):
    """2^19 elements may take another kernel than 2^7; the numbers must be the same, also the sum that is dy/dθ."""
    x = torch.randint(-16, 32, (32, 64, 16, 16)) / 8
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    if layout == "with gaps":
        x = torch.stack([x, x], -1)[..., 0]
    weights = torch.randint(0, 3, x.shape).float()
    x.requires_grad_()
    theta = torch.tensor(1.0, requires_grad=True)
    y = qcfs(x, theta, 4)
    (y * weights).sum().backward()
    assert y.stride() == x.stride() or layout == "with gaps"

    flat = x.detach().reshape(-1, 128)
    pieces = [piece.clone().requires_grad_() for piece in flat]
    total = torch.tensor(1.0, requires_grad=True)
    small = [qcfs(piece, total, 4) for piece in pieces[:64]]
    same(y.detach().reshape(-1, 128)[:64], torch.stack(small).detach())
    expected = [contract(v, 1.0, 4) for v in flat.flatten().tolist()]
    outputs, dx, dtheta = (torch.tensor(column).view(x.shape) for column in zip(*expected, strict=True))
    same(y.detach(), outputs)
    same(x.grad, dx * weights)
    same(theta.grad, (dtheta.double() * weights).sum().float())


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1, 1, 1)])
def test_any_shape(shape):
    x = torch.full(shape, 0.3, requires_grad=True)
    y = qcfs(x, torch.tensor(1.0), 4)
    same(y.detach(), torch.full(shape, 0.25))
    y.sum().backward()
    same(x.grad, torch.ones(shape))


def test_shapes_are_checked_while_tests_run():
    with pytest.raises(TypeCheckError, match="threshold"):
        clip(torch.zeros(3), torch.ones(3))


# counting spikes


@given(current=DYADIC, threshold=THRESHOLD, timesteps=st.integers(1, 32), fraction=st.sampled_from([0.0, 0.25, 0.5]))
def test_spike_count_counts_the_spikes_of_a_neuron(current, threshold, timesteps, fraction):
    v, spikes = fraction * threshold, 0
    for _ in range(timesteps):
        v += current
        if v >= threshold:
            v, spikes = v - threshold, spikes + 1
    assert spike_count(f64([current]), f64(threshold), timesteps, fraction).item() == spikes


@given(current=DYADIC, threshold=THRESHOLD, timesteps=LEVELS)
def test_spike_count_is_qcfs_in_spikes(current, threshold, timesteps):
    x, theta = f64([current]), f64(threshold)
    same(spike_count(x, theta, timesteps) * theta / timesteps, qcfs(x, theta, timesteps))


# the three conversion errors


def fire(currents: list[float], threshold: float) -> tuple[list[float], float]:
    """θ·spikes of a soft-reset neuron from v(0) = θ/2, and its last potential."""
    v, outputs = threshold / 2, []
    for current in currents:
        v += current
        outputs.append(threshold if v >= threshold else 0.0)
        v -= outputs[-1]
    return outputs, v


def parts(activation: float, current: list[float], threshold: float) -> list[float]:
    """The errors of one neuron whose ANN has the current and activation `activation` (not clipped); T = len(current)."""
    steps = len(current)
    meant, even = (qcfs(f64([x]), f64(threshold), steps) for x in (activation, sum(current) / steps))
    output = f64([sum(fire(current, threshold)[0]) / steps])
    errors = conversion_errors(f64([max(activation, 0.0)]), f64(threshold), meant, even, output)
    same(sum(errors), f64([max(activation, 0.0)]) - output)
    return [error.item() for error in errors]


@given(data=st.data(), threshold=THRESHOLD, timesteps=LEVELS, activation=DYADIC)
def test_the_errors_are_the_whole(data, threshold, timesteps, activation):
    current = data.draw(st.lists(DYADIC, min_size=timesteps, max_size=timesteps))
    clipping, quantization, _, unevenness = parts(activation, current, threshold)
    assert clipping >= 0
    assert abs(quantization) <= threshold / (2 * timesteps)
    assert (unevenness * timesteps / threshold).is_integer()


def test_unevenness_by_hand():
    """θ = 1, T = 4: the mean current is ¼ both times, but timing adds a spike that is never taken back."""
    even, uneven = [0.25, 0.25, 0.25, 0.25], [1.5, 1.5, -1.0, -1.0]
    assert fire(even, 1.0) == ([0, 1, 0, 0], 0.5)
    assert fire(uneven, 1.0) == ([1, 1, 0, 0], -0.5)
    assert parts(0.25, even, 1.0) == [0.0, 0.0, 0.0, 0.0]
    assert parts(0.25, uneven, 1.0) == [0.0, 0.0, 0.0, -0.25]


def test_clipping_by_hand():
    assert parts(3.0, [3.0, 3.0], 2.0) == [1.0, 0.0, 0.0, 0.0]


def test_quantization_by_hand():
    """θ = 1, T = 2, current 0.3: one spike of weight ½ for 0.3."""
    assert parts(0.3125, [0.3125, 0.3125], 1.0) == [0.0, -0.1875, 0.0, 0.0]


def test_propagated_by_hand():
    """θ = 1, T = 2: the ANN has ½, but the layers before deliver 1."""
    assert parts(0.5, [1.0, 1.0], 1.0) == [0.0, 0.0, -0.5, 0.0]


# at_least


def test_a_floored_value_can_rise_again():
    theta = torch.tensor(-3.0, requires_grad=True)
    floored = at_least(theta, 0.5)
    assert floored.item() == 0.5
    floored.backward()
    assert theta.grad.item() == 1.0
    assert at_least(torch.tensor(2.0), 0.5).item() == 2.0
