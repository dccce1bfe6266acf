"""Operators in what is counted and explained: energy, errors by layer, calibration beside the ANN."""

import pytest
import torch
from torch import nn

from networks import Net
from snnconv.analysis.costs import Costs
from snnconv.analysis.errors import decompose
from snnconv.analysis.fan_out import fan_out
from snnconv.analysis.layer_errors import PARTS
from snnconv.conversion.methods import threshold
from snnconv.conversion.registry import convert
from snnconv.conversion.rules import largest
from snnconv.nn.graph.sites import MatMul
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


def conv(before=4, after=4):
    return nn.Conv2d(before, after, 3, padding=1)


@pytest.fixture
def images():
    return torch.randn(40, 2, 4, 4, dtype=torch.float64)


@pytest.fixture
def ann():
    """Max pooling in the stem and of spikes, and a GELU."""
    layers = [
        conv(2),
        nn.ReLU(),
        nn.MaxPool2d(1),
        conv(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        conv(),
        nn.GELU(),
        conv(),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3)).double().eval()


@pytest.fixture
def snn(ann, images):
    return threshold.convert(ann, [(images, torch.zeros(40).long())], neuron=IntegrateFire, rule=largest)


def test_what_operators_do_is_counted(snn):
    targets, reach = fan_out(snn.network, (2, 4, 4))
    known = {target.path: target for target in targets}
    assert (known["7"].sums, known["7"].functions) == (16, 16)
    assert (known["5"].sums, known["5"].functions) == (0, 0)
    assert known["8"].varying == known["8"].macs > 0
    assert known["6"].varying == 0
    spiking = [*snn.neurons()][1]
    assert reach[spiking]["5"].eq(1).all()
    assert reach[spiking]["6"].sum() == 4 * known["6"].macs  # all four spikes of a window pass, at most


def test_an_operator_costs_what_the_rule_says(snn):
    targets, _ = fan_out(snn.network, (2, 4, 4))
    gelu = next(target for target in targets if target.path == "7")
    costs = Costs(mac=4.0, accumulate=1.0)
    assert costs.of_snn(gelu, accumulates=0, macs=0, steps=3) == 3 * (16 * 1.0 + 16 * 2 * 4.0)


def test_a_product_of_signals_takes_macs_in_every_step(images):
    network = Net(lambda net, x: net.head(net.product(y := net.act(net.stem(x)).flatten(2), y.transpose(1, 2)).flatten(1)),
                  stem=conv(2), act=nn.ReLU(), product=MatMul(), head=nn.Linear(16, 3))  # fmt: skip
    snn = threshold.convert(network.double(), [(images, images)], neuron=IntegrateFire, rule=largest)
    product = next(target for target in fan_out(snn.network, (2, 4, 4))[0] if target.path == "product")
    assert (product.macs, product.varying) == (4 * 16 * 4, 4 * 16 * 4)


def test_errors_add_up_beside_operators(ann, snn, images):
    errors = decompose(ann, snn, [(images, torch.zeros(40).long())], [8], images=20)
    assert [layer.path for layer in errors.layers] == ["1", "4", "9"]
    for layer in errors.layers:
        assert sum(layer.mean[part] for part in PARTS) == pytest.approx(layer.mean["total"], abs=1e-12)


@pytest.mark.parametrize("method", ["layer_calibration", "layer_calibration_advanced", "temporal_bias"])
def test_calibration_beside_the_ann_sees_operators(method, ann, images):
    """Its error at T = 16 is of the order of uncalibrated conversion or below."""
    batches = [(torch.randn(300, 2, 4, 4, dtype=torch.float64), torch.zeros(300).long())]
    with torch.no_grad():
        wanted = ann(images)
    calibrated, plain = (convert(ann, batches, method=name)(images, 16).mean(0) for name in (method, "mse"))
    assert (calibrated - wanted).norm() < 1.3 * (plain - wanted).norm()
