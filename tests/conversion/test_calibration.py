"""Calibration: thresholds from activations, against slow, literal references, and where they are used."""

import logging
import math

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from snnconv.conversion.calibration import calibrate, observed_thresholds
from snnconv.conversion.rules import kullback_leibler, largest, least_squares, normal, percentile
from snnconv.data.batches import in_batches
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.spiking.operators.base import Encoder


def samples(count: int = 500, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator).clamp_min(0) * 3


# the rules


def test_the_largest():
    assert largest(torch.tensor([0.0, 2.0, 5.0, 1.0]), 4) == 5.0


@pytest.mark.parametrize(
    ("percent", "count"),
    [
        (0.5, 2),
        (0.5, 7),
        (50, 2),
        (50, 7),
        (62.5, 200),
        (99, 100),
        (99, 1000),
        (99.9, 1000),
        (99.9, 1700),
        (100, 1),
        (100, 200),
    ],
)
def test_percentile_is_the_smallest_value_that_enough_do_not_exceed(percent, count):
    values = samples(count, seed=count)
    expected = next(v for v in sorted(values.tolist()) if sum(w <= v for w in values.tolist()) * 100 >= percent * count)
    assert percentile(values, 4, percent) == expected


@pytest.mark.parametrize("percent", [0, -1, 100.5])
def test_percent_is_a_share(percent):
    with pytest.raises(ValueError, match="percent"):
        percentile(samples(), 4, percent)


@pytest.mark.parametrize(("percent", "fewest"), [(50, 2), (99, 100), (99.9, 1000), (99.99, 10000)])
def test_a_percentile_of_too_few_is_refused(percent, fewest):
    assert percentile(torch.arange(fewest) / 1.0, 4, percent) == fewest - 2  # one is above, no more
    message = f"percent={percent}: needs at least {fewest} activations, got {fewest - 1}; .*method=max_norm"
    with pytest.raises(ValueError, match=message):
        percentile(torch.arange(fewest - 1) / 1.0, 4, percent)


def literal_least_squares(values: list[float], levels: int, candidates: int) -> tuple[float, list[float]]:
    """Li et al., 2021, in words: try every fraction of the largest, sum the squared errors, keep the least."""
    grid = [max(values) * k / candidates for k in range(1, candidates + 1)]
    errors = []
    for theta in grid:
        error = 0.0
        for z in values:
            quantized = theta * min(max(int(levels * z / theta + 0.5), 0), levels) / levels  # z ≥ 0: int is floor
            error += (z - quantized) ** 2
        errors.append(error)
    return grid[errors.index(min(errors))], errors


@pytest.mark.parametrize("levels", [1, 2, 4, 8, 32])
def test_least_squares_against_the_literal_search(levels):
    values = samples(300, seed=levels)
    expected, errors = literal_least_squares(values.tolist(), levels, 40)
    found = least_squares(values, levels, candidates=40)
    assert found == pytest.approx(expected, rel=1e-5)
    assert sum(error == min(errors) for error in errors) == 1  # the comparison means something


def test_more_levels_clip_less():
    values = samples(2000)
    found = [least_squares(values, levels) for levels in (1, 2, 4, 8, 32)]
    assert found == sorted(found)
    assert found[0] < found[-1] <= values.max()


def test_a_grid_has_points():
    with pytest.raises(ValueError, match="candidates"):
        least_squares(samples(), 4, candidates=0)


def literal_kullback_leibler(values: list[float], levels: int, candidates: int, bins: int) -> tuple[float, list[float]]:
    """Migacz, 2017, in words: histogram, clip it at each candidate, merge what is left into levels, compare."""
    positive = [value for value in values if value > 0]
    top = max(positive)
    histogram = [0] * bins
    for value in positive:
        histogram[min(int(value / top * bins), bins - 1)] += 1
    grid, divergences = [], []
    for k in range(1, candidates + 1):
        end = bins * k // candidates
        if end < levels:
            continue
        reference = [float(count) for count in histogram[:end]]
        quantized = [0.0] * end
        for level in range(levels):
            members = [j for j in range(end) if j * levels // end == level]
            filled = [j for j in members if histogram[j] > 0]
            for j in filled:
                quantized[j] = sum(histogram[m] for m in members) / len(filled)
        quantized = [count + 1e-4 for count in quantized]
        reference[-1] += sum(histogram[end:])
        p_sum, q_sum = sum(reference), sum(quantized)
        pairs = zip(reference, quantized, strict=True)
        grid.append(top * end / bins)
        divergences.append(sum(p / p_sum * math.log((p / p_sum) / (q / q_sum)) for p, q in pairs if p > 0))
    return grid[divergences.index(min(divergences))], divergences


@pytest.mark.parametrize(
    ("levels", "candidates", "bins"), [(1, 8, 16), (2, 10, 64), (4, 20, 100), (8, 16, 128), (32, 20, 100)]
)
def test_kullback_leibler_against_the_literal_search(levels, candidates, bins):
    values = torch.cat([samples(300, seed=levels).double(), torch.tensor([9.5, 14.0])])  # a tail
    expected, divergences = literal_kullback_leibler(values.tolist(), levels, candidates, bins)
    assert kullback_leibler(values, levels, candidates, bins).item() == pytest.approx(expected, rel=1e-12)
    assert sorted(divergences)[1] > min(divergences) + 1e-9  # the comparison means something


def test_kullback_leibler_clips_a_far_outlier():
    values = torch.cat([samples(2000), torch.tensor([300.0])])
    assert kullback_leibler(values, 8) < 30


def test_kullback_leibler_ignores_zeros():
    values = samples(500)
    assert kullback_leibler(torch.cat([values, torch.zeros(5000)]), 8) == kullback_leibler(values, 8)
    assert kullback_leibler(torch.zeros(7), 8) == 0


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"candidates": 65, "bins": 64}, {"candidates": 1, "bins": 7}])
def test_a_histogram_has_bins_for_levels_and_candidates(wrong):
    with pytest.raises(ValueError, match=f"candidates={wrong['candidates']}"):
        kullback_leibler(samples(), 8, **wrong)


RULES = {
    "largest": largest,
    "percentile": lambda values, levels: percentile(values, levels, 90),
    "least_squares": lambda values, levels: least_squares(values, levels, 32),
    "kullback_leibler": lambda values, levels: kullback_leibler(values, levels, 32, 256),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@given(seed=st.integers(0, 1000), exponent=st.integers(-6, 6), levels=st.integers(1, 16))
def test_threshold_has_the_unit_of_the_activations(rule, seed, exponent, levels):
    values = samples(40, seed)
    assert rule(2.0**exponent * values, levels) == 2.0**exponent * rule(values, levels)
    assert 0 < rule(values, levels) <= values.max()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_one_threshold_a_channel_is_the_rule_channel_by_channel(rule):
    channels = torch.stack([samples(50, seed) * (seed + 1) for seed in range(3)])
    assert rule(channels, 4).tolist() == [rule(channel, 4).item() for channel in channels]


# calibrating a network


def unknown(network: nn.Module) -> nn.Module:
    """As `model.weights` of a ReLU network leaves the thresholds."""
    for module in network.modules():
        if isinstance(module, QCFS):
            module.theta.data.fill_(torch.nan)
    return network


def thresholds(network: nn.Module) -> dict[str, float]:
    return {path: m.threshold.item() for path, m in network.named_modules() if isinstance(m, QCFS)}


@pytest.fixture
def batches(exact_images):
    return [(exact_images(4, seed), torch.zeros(4)) for seed in (1, 2, 3)]


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_every_layer_sees_the_activations_of_the_relu_network(exact_network, batches, kind):
    network = unknown(exact_network(kind))
    calibrate(network, batches, rule=largest)
    relu = exact_network(kind, ReLU)
    relu.load_state_dict({name: t for name, t in network.state_dict().items() if "theta" not in name})
    seen: dict[str, float] = {}
    for path, module in relu.named_modules():
        if isinstance(module, nn.ReLU):
            hook = lambda m, i, o, path=path: seen.update({path: max(seen.get(path, 0.0), o.max().item())})  # noqa: E731
            module.register_forward_hook(hook)
    for images, _ in batches:
        relu(images)
    assert thresholds(network) == seen


def test_large_layers_are_sampled_and_their_largest_is_kept(exact_network, batches):
    seen = []

    def rule(values, levels):
        seen.append((len(values), levels))
        return largest(values, levels)

    few, all_of_it = unknown(exact_network()), unknown(exact_network())
    calibrate(few, batches, rule=rule, per_image=8)
    calibrate(all_of_it, batches, rule=largest, per_image=1000)
    assert seen == [(3 * (4 * 8 + 1), 4), (3 * 4 * 8, 4)]  # 64 values an image in the first layer, 8 in the second
    assert thresholds(few) == thresholds(all_of_it)


def test_twice_the_same(exact_network, batches):
    one, other = unknown(exact_network()), unknown(exact_network())
    for network in (one, other):
        calibrate(network, batches, rule=lambda values, levels: values.mean().item(), per_image=8)
    assert thresholds(one) == thresholds(other)


def test_only_thresholds_change(exact_network, batches):
    network = unknown(exact_network()).train()
    before = {name: t.clone() for name, t in network.state_dict().items() if "theta" not in name}
    calibrate(network, batches, rule=largest)
    assert network.training
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


def test_known_thresholds_stay(exact_network):
    network = exact_network()
    before = thresholds(network)
    calibrate(network, [], rule=largest)  # looks at no image
    assert thresholds(network) == before


def test_a_silent_layer_is_named(exact_network, batches):
    network = unknown(exact_network())
    network[1].bias.data.fill_(-1000.0)
    with pytest.raises(ValueError, match=r"^2: calibration gives a threshold of 0"):
        calibrate(network, batches, rule=largest)


def test_momentum_averages_over_batches(exact_network, batches):
    network = exact_network()
    thetas = [observed_thresholds(network, ["2"], [batch], largest)["2"] for batch in batches]
    assert len(set(thetas)) > 1
    together = [(torch.cat([images for images, _ in batches]), torch.zeros(12))]
    found = observed_thresholds(network, ["2"], together, largest, momentum=0.75, batch_size=4)["2"]
    assert found == 0.75 * (0.75 * thetas[0] + 0.25 * thetas[1]) + 0.25 * thetas[2]
    calibrate(unknown(network), together, rule=largest, momentum=0.75, batch_size=4)
    assert network[2].threshold.item() == found


def test_images_in_other_batches():
    images, labels = torch.arange(10).view(10, 1), torch.arange(10)
    batches = [(images[:7], labels[:7]), (images[7:], labels[7:])]
    assert [part.tolist() for _, part in in_batches(batches, 3)] == [[0, 1, 2], [3, 4, 5], [6], [7, 8, 9]]
    assert [part.flatten().tolist() for part, _ in in_batches(batches, 5, 6)] == [
        [0, 1, 2, 3, 4],
        [5, 6],
        [7, 8, 9],
    ] * 2
    assert [part.tolist() for _, part in in_batches(batches, 5, 1)] == [[0, 1, 2, 3, 4]]
    assert in_batches([], 5, 6) == []


@pytest.mark.parametrize(("size", "count", "message"), [(0, None, "batch_size=0"), (1, 0, "iterations=0")])
def test_batches_hold_something(size, count, message):
    with pytest.raises(ValueError, match=message):
        in_batches([], size, count)


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momentum_is_a_share(exact_network, batches, momentum):
    with pytest.raises(ValueError, match=f"momentum={momentum}"):
        calibrate(unknown(exact_network()), batches, rule=largest, momentum=momentum)


def test_too_few_images_for_a_percentile_name_the_layer(exact_network, batches):
    with pytest.raises(ValueError, match=r"^2: percent=99.9: needs at least 1000 activations, got 768"):
        calibrate(unknown(exact_network()), batches, rule=percentile)


def test_every_calibration_builds_and_finds_thresholds(
    compose_config, any_calibration, exact_network, exact_images, caplog
):
    network, batches = unknown(exact_network("residual")), [(exact_images(64), torch.zeros(64))]
    caplog.set_level(logging.INFO)
    instantiate(compose_config(f"calibration={any_calibration}", "levels=4").calibration)(network, batches)
    assert all(value > 0 for value in thresholds(network).values())
    assert "Calibrated 3 thresholds" in caplog.text


# from mean and deviation


def literal_normal(values: list[float], levels: int, iterations: int) -> float:
    """θ ← L·E[x·k]/E[k²] with the sums written out, for x of the mean and deviation of `values`."""
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    theta = mean + 3 * deviation
    for _ in range(iterations):
        product = square = 0.0
        for i in range(1, levels + 1):
            z = ((2 * i - 1) / (2 * levels) * theta - mean) / deviation
            above, density = math.erfc(z / math.sqrt(2)) / 2, math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
            product += mean * above + deviation * density
            square += (2 * i - 1) * above
        theta = levels * product / square
    return theta


@pytest.mark.parametrize("levels", [1, 2, 4, 16])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-1.5, 2.0), (3.0, 0.5), (-4.0, 1.0)])
def test_normal_is_its_fixed_point(levels, mean, deviation):
    values = mean + deviation * torch.randn(400, dtype=torch.float64)
    assert normal(values, levels).item() == pytest.approx(literal_normal(values.tolist(), levels, 100), rel=1e-9)


@pytest.mark.parametrize("levels", [1, 4, 16])
@pytest.mark.parametrize("mean", [-1.0, 0.0, 2.0])
def test_normal_is_the_least_error_of_a_normal_distribution(levels, mean):
    """No θ nearby has a smaller error on quantiles of the distribution."""
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    x = mean + torch.special.ndtri(grid)

    def error(theta: torch.Tensor) -> float:
        return (x.relu() - theta * (levels * x / theta + 0.5).floor().clamp(0, levels) / levels).square().mean().item()

    theta = normal(x, levels)
    assert error(theta) <= min(error(theta * factor) for factor in (0.9, 0.97, 1.03, 1.1))


def test_normal_has_a_threshold_for_every_channel():
    values = torch.randn(3, 300) * torch.tensor([[1.0], [2.0], [0.0]]) + torch.tensor([[0.0], [1.0], [5.0]])
    theta = normal(values, 4)
    assert theta.shape == (3,)
    assert [normal(channel, 4).item() for channel in values] == pytest.approx(theta.tolist())
    assert theta[2] == pytest.approx(5.0)  # a constant
    assert normal(torch.full((9,), -1.0), 4) == 0  # never active
    with pytest.raises(ValueError, match="iterations=0"):
        normal(values, 4, iterations=0)


def test_normal_reads_currents_before_the_relu():
    """The outputs of a ReLU are not normal; a clipped ReLU limits θ."""
    x = torch.randn(500, 6) * 2 - 1
    network = nn.Sequential(nn.Identity(), nn.ReLU())
    theta = observed_thresholds(network, ["1"], [(x, None)], normal, levels=4)["1"]
    assert theta == pytest.approx(normal(x.flatten(), 4).item())
    both = observed_thresholds(network, ["1"], [(x, None)], normal, levels=4, per_channel=True)["1"]
    torch.testing.assert_close(both, normal(x.T, 4))
    network[1].ceiling = 0.5
    assert observed_thresholds(network, ["1"], [(x, None)], normal, levels=4)["1"] == 0.5


def test_normal_of_a_signed_signal_serves_both_signs():
    """A signal of mean −2 needs the same θ as one of mean 2, and one that covers it."""
    thetas = []
    for sign in (1, -1):
        network = nn.Sequential(nn.Linear(1, 1, bias=False), Encoder())
        network[0].weight.data.fill_(sign)
        values = 2 + 0.1 * torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
        thetas.append(float(observed_thresholds(network, ["1"], [(values, values)], normal, levels=8)["1"]))
    assert thetas[0] == pytest.approx(thetas[1], rel=1e-6)
    assert thetas[0] > 1.5
