"""An explanation from Python: any iterable serves, it prints, and its page stands alone."""

import doctest
import importlib
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from snnconv.analysis.errors import decompose
from snnconv.analysis.explanation import explain
from snnconv.analysis.operations import count_operations
from snnconv.analysis.robustness import noise
from snnconv.conversion.methods import qcfs, st_bif, threshold
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.relus import replace_relus
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


@pytest.fixture
def ann(exact_network):
    return exact_network("residual", lambda: QCFS(4), seed=3)


@pytest.fixture
def snn(ann):
    return qcfs.convert(ann, [], neuron=IntegrateFire)


@pytest.fixture
def samples(exact_images):
    return exact_images(12), torch.arange(12) % 3


def test_every_kind_of_loader_gives_the_same(ann, snn, samples):
    images, labels = samples
    whole = explain(ann, snn, [samples], [1, 4])
    parts = list(zip(images.split(5), labels.split(5), strict=True))
    for loader in (parts, iter(parts), DataLoader(TensorDataset(*samples), batch_size=5), (images, labels)):
        part = explain(ann, snn, loader, [1, 4])
        assert part.errors.snn == whole.errors.snn
        assert part.energy.operations == whole.energy.operations
        assert [advice.text() for advice in part.advice] == [advice.text() for advice in whole.advice]
    assert whole.energy.operations == count_operations(snn, parts, [1, 4])
    assert whole.errors.drops(4) == decompose(ann, snn, parts, [4]).drops(4)


def test_a_number_of_timesteps_stands_for_powers_of_two(ann, snn, samples):
    assert explain(ann, snn, [samples], 5).timesteps == (1, 2, 4, 5)
    assert explain(ann, snn, [samples], [5, 3], images=7).images == 7


def test_the_model_stays_as_it_is(ann, snn, samples):
    before, mode = {name: value.clone() for name, value in ann.state_dict().items()}, ann.train().training
    explain(ann, snn, [samples], [2])
    assert ann.training == mode
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())


def test_prints_accuracies_advice_and_energy(ann, snn, samples):
    why = explain(ann, snn, [samples], [1, 4], costs="int8_45nm")
    text = str(why)
    assert f"ANN {100 * why.errors.ann:.1f}, SNN T=1 {100 * why.errors.snn[1]:.1f}, T=4 " in text
    assert why.advice[-1].text() in text
    assert str(why.energy) in text


def test_the_page_stands_alone(ann, snn, samples, tmp_path):
    path = explain(ann, snn, [samples], [1, 4]).to_html(tmp_path / "why.html", title="<mine>")
    text = path.read_text()
    addresses = re.findall(r"(?:src|href)=\"([^\"]*)", text)
    assert len(addresses) == 8  # icon, ladder, shares, raster and four tables of costs
    assert all(address.startswith("data:") for address in addresses)
    assert "&lt;mine&gt;" in text
    for heading in ("Why the accuracy differs", "Spikes", "Energy: an estimate", "Layers at T = 4"):
        assert heading in text
    assert "How to reproduce" not in text


def test_a_method_without_a_mean_current_has_no_errors_but_a_page(ann, samples, tmp_path):
    why = explain(ann, st_bif.convert(ann, []), [samples], [4])
    assert (why.errors, why.advice) == (None, [])
    assert "Why the accuracy" not in why.to_html(tmp_path / "why.html").read_text()
    assert "12 given images" in str(why)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(F.relu(self.first(x.flatten(1))))


def test_relu_calls_are_found(samples):
    model = Functional()
    with_modules = replace_relus(model, nn.ReLU)
    snn = threshold.convert(with_modules, [samples], neuron=IntegrateFire, rule=lambda x, levels: x.amax(-1))
    assert explain(model, snn, [samples], [4]).errors == explain(with_modules, snn, [samples], [4]).errors


def test_mistakes_are_named(ann, snn, samples):
    with pytest.raises(ValueError, match="has no activation at 2, but snn has neurons there"):
        explain(Functional(), snn, [samples], [4])
    with pytest.raises(ValueError, match="there are none"):
        explain(ann, snn, [], [4])
    with pytest.raises(ValueError, match="disturbances: need the normalization"):
        explain(
            ann,
            snn,
            [samples],
            [4],
            disturbances={"noise": lambda pixels, gradient: noise(pixels, gradient, sigma=0.1)},
        )
    with pytest.raises(TypeError, match="int"):
        explain(ann, snn, 3, [4])


@pytest.mark.parametrize("name", ["explanation", "energy", "costs", "operations"])
def test_examples_run(name):
    outcome = doctest.testmod(importlib.import_module(f"snnconv.analysis.{name}"))
    assert (outcome.failed, outcome.attempted > 0) == (0, True)
