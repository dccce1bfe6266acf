"""Calibration: thresholds from activations, against slow, literal references, and where they are used."""

import logging

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from snnconv.activations.qcfs import QCFS
from snnconv.activations.relu import ReLU
from snnconv.calibration import calibrate, largest, least_squares, percentile


def samples(count: int = 500, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator).clamp_min(0) * 3


# the rules


def test_the_largest():
    assert largest(torch.tensor([0.0, 2.0, 5.0, 1.0]), 4) == 5.0


@pytest.mark.parametrize("percent", [0.5, 50, 62.5, 99, 99.9, 100])
@pytest.mark.parametrize("count", [1, 7, 200, 1000])
def test_percentile_is_the_smallest_value_that_enough_do_not_exceed(percent, count):
    values = samples(count, seed=count)
    expected = next(v for v in sorted(values.tolist()) if sum(w <= v for w in values.tolist()) * 100 >= percent * count)
    assert percentile(values, 4, percent) == expected


@pytest.mark.parametrize("percent", [0, -1, 100.5])
def test_percent_is_a_share(percent):
    with pytest.raises(ValueError, match="percent"):
        percentile(samples(), 4, percent)


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


def test_every_calibration_builds_and_finds_thresholds(compose_config, any_calibration, exact_network, batches, caplog):
    network = unknown(exact_network("residual"))
    caplog.set_level(logging.INFO)
    instantiate(compose_config(f"calibration={any_calibration}", "levels=4").calibration)(network, batches)
    assert all(value > 0 for value in thresholds(network).values())
    assert "Calibrated 3 thresholds" in caplog.text
