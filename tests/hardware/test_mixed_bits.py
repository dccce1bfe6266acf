"""Other bits in some layers: integers of each layer, and bits by measured sensitivity."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from hardware_networks import NETWORKS
from snnconv.conversion.methods import qcfs
from snnconv.hardware.export import c
from snnconv.hardware.integer import file, sensitivity
from snnconv.hardware.integer.golden import difference, outcome, simulate
from snnconv.hardware.integer.network import integerize
from snnconv.hardware.integer.sensitivity import propose, sensitivities, settle_layers
from snnconv.nn.quantization import quantize
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


@pytest.fixture
def snn():
    torch.manual_seed(4)
    return qcfs.convert(NETWORKS["residual"]().eval(), [], neuron=IntegrateFire)


def test_integers_of_each_layer(snn, exact_images, tmp_path):
    x = exact_images(6, 1)
    layers = {"3.conv1": 3, "3.*": "power_of_two", "6": 16}
    network = integerize(snn, [(x, None)], bits=4, layers=layers)
    most = {path: float(layer.integers.abs().max()) for path, layer in network.layers.items()}
    assert most == {"0": 7, "3.conv1": 3, "3.conv2": 64, "6": 2**15 - 1}
    assert difference(outcome(network, x, 5), simulate(network, x.numpy(), 5)) is None
    facts = c.export(None, snn, SimpleNamespace(test=[(x, None)], calibration=[(x, None)]), tmp_path, timesteps=5, bits=4,
                     layers=layers)  # fmt: skip
    assert facts["differing_from_the_golden_model"]["torch"] == 0
    file.replay(tmp_path / "snn.npz")
    sizes = {path: layer.integers.numel() for path, layer in network.layers.items()}
    bits = {"0": 4, "3.conv1": 3, "3.conv2": 4, "6": 16}
    other = integerize(snn, [(x, None)], bits=4)
    other.snn(x, 2)
    uniform = other.summary()["weight_bytes"]
    assert network.summary()["weight_bytes"] == uniform + sum((bits[path] - 4) * sizes[path] for path in bits) / 8


def test_patterns_without_a_layer(snn, exact_images):
    with pytest.raises(
        ValueError, match=r"integer.layers: no layer with weights matches conv; there are 0, 3.conv1, 3.conv2, 6"
    ):
        integerize(snn, [(exact_images(2, 1), None)], layers={"conv": 4})


def test_sensitivities_by_hand(ann, images):
    found = sensitivities(ann, [images], (2, 4))
    outputs = ann(images)
    for path, bits in product(("0", "2"), (2, 4)):
        layer = ann.get_submodule(path)
        weight = layer.weight.data
        layer.weight.data = quantize(weight, bits).values
        expected = (ann(images) - outputs).square().sum() / outputs.square().sum()
        layer.weight.data = weight
        assert found[path][bits] == pytest.approx(expected.item())
    assert torch.equal(ann(images), outputs)


@pytest.fixture
def ann():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


@pytest.fixture
def images():
    return torch.rand(30, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("average", [2, 2.5, 3.7, 5, 8, 20])
def test_proposals_stay_within_the_average(ann, images, average):
    sizes, choices = {"0": 60, "2": 36}, (2, 4, 8)
    bits = propose(ann, [(images, None)], average, choices=choices)
    budget = average * 96
    used = sum(bits[path] * size for path, size in sizes.items())
    assert used <= budget
    larger = {2: 4, 4: 8}
    assert all(
        used + (larger[n] - n) * sizes[path] > budget for path, n in bits.items() if n in larger
    )  # nothing is left


def test_the_layer_that_matters_keeps_its_bits(monkeypatch, ann, images):
    errors = {"0": {2: 0.9, 8: 0.0}, "2": {2: 0.1, 8: 0.0}}
    monkeypatch.setattr(sensitivity, "sensitivities", lambda *_: errors)
    assert propose(ann, [(images, None)], 6, choices=(2, 8)) == {"0": 8, "2": 2}
    errors["2"][2] = 9
    assert propose(ann, [(images, None)], 6, choices=(2, 8)) == {"0": 2, "2": 8}


def test_settings(ann, images, caplog):
    caplog.set_level("INFO")
    settings = OmegaConf.create({"bits": 8, "layers": None, "average_bits": 8, "per_channel": True})
    settle_layers(settings, ann, [(images, None)])
    assert settings.layers == {"0": 8, "2": 8}
    assert "integer.layers={0:8,2:8}" in caplog.text
    with pytest.raises(ValueError, match=r"integer.average_bits: chooses the bits of all layers"):
        settle_layers(settings, ann, [(images, None)])
    for wrong in (1, 1.5):
        with pytest.raises(ValueError, match=r"integer.average_bits=.*: must be a number of at least 2"):
            propose(ann, [(images, None)], wrong)
    with pytest.raises(ValueError, match=r"integer.average_bits: needs calibration images"):
        propose(ann, [], 4)
