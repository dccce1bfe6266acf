"""Common parts of methods: rehearsals, and unknown settings."""

from functools import partial

import pytest
import torch
from torch import nn

from snnconv.conversion.method import rehearse
from snnconv.conversion.methods import burst, cos, layer_calibration, srp, temporal_bias, threshold
from snnconv.conversion.rules import largest, least_squares, percentile
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


@pytest.fixture
def relu(exact_network):
    return exact_network("plain", nn.ReLU)


def batches(images, count=4):
    return [(images(count), torch.zeros(count))]


def test_a_rehearsal_needs_fewer_images_than_the_method(relu, exact_images):
    method = partial(burst.convert, rule=partial(percentile, percent=99.9))
    with pytest.raises(ValueError, match="needs at least 1000 activations"):
        method(relu, batches(exact_images))
    rehearse(method, relu, batches(exact_images))


def test_a_rehearsal_still_tries_the_rule(relu, exact_images):
    with pytest.raises(ValueError, match="percent=200"):
        rehearse(partial(burst.convert, rule=partial(percentile, percent=200)), relu, batches(exact_images))


@pytest.mark.parametrize("method", [layer_calibration, temporal_bias])
def test_what_is_converted_does_not_change_with_the_ann_later(method, exact_network, exact_images):
    ann = exact_network()
    snn, images = method.convert(ann, batches(exact_images, 8)), exact_images()
    with torch.no_grad():
        ann[0].weight.mul_(3)
    expected = method.convert(exact_network(), batches(exact_images, 8))(images, 4)
    torch.testing.assert_close(snn(images, 4), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (srp, {"warmup": 2.5}), (srp, {"warmup": float("inf")}), (cos, {"warmup": 2.5}), (cos, {"iterations": 1.5}),
        (temporal_bias, {"rounds": 1.5}), (temporal_bias, {"images": 2.5}), (temporal_bias, {"levels": 1.5}),
        (layer_calibration, {"epochs": 1.5}), (layer_calibration, {"lr": float("inf")}),
    ],
)  # fmt: skip
def test_settings_of_the_wrong_kind_are_named(method, setting, exact_network, exact_images, unchecked):
    with pytest.raises(ValueError, match=f"method.{next(iter(setting))}="):
        method.convert(exact_network(), batches(exact_images), **setting)


@pytest.mark.parametrize("levels", [0, -1, 2.5])
@pytest.mark.parametrize("rule", [largest, least_squares])
def test_levels_of_a_rule_are_counted(levels, rule, relu, exact_images, unchecked):
    with pytest.raises(ValueError, match=f"levels={levels}"):
        threshold.convert(relu, batches(exact_images), neuron=IntegrateFire, rule=rule, levels=levels)


@pytest.mark.parametrize("v_initial", [float("nan"), float("inf")])
def test_an_initial_potential_is_finite(v_initial):
    with pytest.raises(ValueError, match="v_initial"):
        IntegrateFire(1.0, v_initial)
