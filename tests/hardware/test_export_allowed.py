"""The exports that a network allows are those whose export succeeds."""

from types import SimpleNamespace

import pytest
import torch

from snnconv.conversion.methods import burst, qcfs
from snnconv.hardware.export import onnx_unrolled
from snnconv.hardware.export.allowed import ALLOWED, exports
from snnconv.hardware.export.to_file import FORMATS
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.encoders.phase import Phase
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


def test_all_formats_of_a_plain_network(exact_network, exact_images):
    pytest.importorskip("nir")
    pytest.importorskip("onnx")
    ann = exact_network("residual", lambda: QCFS(4), seed=3)
    before = {name: value.clone() for name, value in ann.state_dict().items()}
    snn = qcfs.convert(ann, [], neuron=IntegrateFire)
    assert exports(ann, snn, exact_images(4)) == dict.fromkeys(FORMATS, ALLOWED)
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())


def test_reasons(exact_network, exact_images):
    pytest.importorskip("nir")
    pytest.importorskip("onnx")
    ann = exact_network("plain", lambda: QCFS(4), seed=3)
    images = exact_images(4)
    answers = exports(ann, burst.convert(ann, [(images, torch.zeros(4))], gamma=2), images)
    assert "only plain integrate-and-fire neurons can be exported" in answers["nir"]
    assert answers["onnx_over_time"] == answers["nir"]
    assert answers["onnx"] == ALLOWED  # it holds the ANN
    assert "only integrate-and-fire neurons, also with a bias or no_debt, have an integer form" in answers["c"]
    assert answers["verilog"] == answers["c"]


def test_inputs_that_change_over_time(exact_network, exact_images, tmp_path):
    pytest.importorskip("nir")
    images = exact_images(4)
    ann = exact_network("plain", lambda: QCFS(4), seed=3)
    snn = qcfs.convert(ann, [], neuron=IntegrateFire).encoded(Phase(bits=4), [(images, None)])
    answers = exports(ann, snn, images)
    assert all(answers[name].startswith("encoder=phase: ") for name in FORMATS if name != "onnx")
    with pytest.raises(
        ValueError, match=r"encoder=phase: exported networks receive the same inputs in every step; use "
    ):
        onnx_unrolled.export(ann, snn, SimpleNamespace(test=[(images, None)]), tmp_path)
    assert not list(tmp_path.iterdir())
