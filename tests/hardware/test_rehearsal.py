"""A rehearsal refuses the same networks as the export or integer network, with the same message, and writes nothing."""

import re
from functools import partial

import pytest
import torch
from torch import nn

from snnconv.conversion.methods import qcfs
from snnconv.hardware.export import c, nir, onnx, onnx_unrolled, verilog
from snnconv.hardware.integer.neuron import WidthError
from snnconv.hardware.rehearsal import exporting, integers, untrained
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

IMAGES = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
EXPORTS = {"onnx": onnx, "onnx_over_time": onnx_unrolled, "nir": nir, "c": c, "verilog": verilog}


@pytest.fixture
def ann() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), QCFS(4, threshold=1.0), nn.Linear(6, 3)).eval()


@pytest.fixture
def snn(ann):
    return qcfs.convert(ann, [], neuron=IntegrateFire)


@pytest.mark.parametrize(("format", "settings", "message"), [
    ("onnx", {"opset": 12}, "export=onnx: export.opset=12: must be from 13"),
    ("onnx", {"weight_bits": 9}, "export=onnx: export.weight_bits=9: must be 2 to 8"),
    ("onnx_over_time", {"opset": 9}, "export=onnx_over_time: export.opset=9: must be from 13"),
    ("onnx_over_time", {"timesteps": 0}, "export=onnx_over_time: export.timesteps=0: must be an integer of at least 1"),
    ("nir", {"timesteps": 0}, "export=nir: timesteps=0: must be integers of at least 1"),
    ("c", {"timesteps": 0}, "export=c: export.timesteps=0: must be an integer of at least 1"),
    ("c", {"image_bits": 40}, "export=c: image_bits=40: must be an integer from 2 to 16"),
    ("c", {"membrane_bits": 3}, "export=c: 2: .* membrane_bits=3: this layer needs at least"),
    ("verilog", {"images": 0}, "export=verilog: export.images=0: must be an integer of at least 1"),
])  # fmt: skip
def test_settings_of_an_export_are_rehearsed(format, settings, message, ann, snn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        exporting(format, partial(EXPORTS[format].export, **settings), ann)(snn, IMAGES)
    assert not list(tmp_path.iterdir())


def test_a_width_of_an_untrained_network_is_a_warning(snn, caplog):
    narrow = integers(4, {"membrane_bits": 3, "golden": 2, "beside_float": True})
    with pytest.raises(WidthError, match="membrane_bits=3: this layer needs at least"):
        narrow(snn, IMAGES)
    untrained(narrow)(snn, IMAGES)
    assert "this layer needs at least" in caplog.text
    with pytest.raises(ValueError, match=r"integer\.golden=-1"):
        untrained(integers(4, {"golden": -1}))(snn, IMAGES)
    with caplog.at_level("INFO"):
        integers([2, 4], {"golden": 2, "bits": 4})(snn, IMAGES)
    observed, bound = re.search(
        r"T = 4, 2 images: membranes of (\d+) to .* for any image \((\d+): 2\)", caplog.text
    ).groups()
    assert int(observed) <= int(bound)
    integers(4, {"golden": 0})(snn, IMAGES)  # nothing is simulated, so there are no widths
