"""`export` from Python: the format follows the suffix, and the files are those of the exporters."""

import doctest
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from snnconv.conversion.methods import qcfs
from snnconv.hardware.export import c, nir, onnx, to_file
from snnconv.hardware.export.to_file import export
from snnconv.hardware.integer import file as integer_file
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


@pytest.fixture
def ann(exact_network):
    return exact_network("plain", lambda: QCFS(4), seed=3).eval()


@pytest.fixture
def snn(ann):
    return qcfs.convert(ann, [], neuron=IntegrateFire)


@pytest.fixture
def data(exact_images):
    batches = [(exact_images(6, 1), torch.zeros(6))]
    return SimpleNamespace(calibration=batches, test=batches)


@pytest.mark.parametrize(
    ("file", "module", "name", "settings"),
    [
        ("net.nir", nir, "network.nir", {"timesteps": 4}),
        ("net.onnx", onnx, "network.onnx", {"weight_bits": 4}),
        ("net.npz", c, "snn.npz", {"timesteps": 4, "bits": 4, "source": False}),
    ],
)
def test_the_file_is_that_of_the_exporter(file, module, name, settings, ann, snn, data, tmp_path):
    if module is not c:
        pytest.importorskip(module.__name__.rpartition(".")[2])
    (tmp_path / "run").mkdir()
    facts = module.export(ann, snn, data, tmp_path / "run", **settings)
    images = data.test[0][0]
    for number, example in enumerate((images, data.test, DataLoader(TensorDataset(images), 4), iter(images.split(3)))):
        path = tmp_path / str(number) / file
        found = export(ann if module is onnx else snn, path, example=example, **settings)
        assert path.read_bytes() == (tmp_path / "run" / name).read_bytes()
        assert found == {**facts, "files": {str(path): path.stat().st_size}}
        assert list(path.parent.iterdir()) == [path]


def test_c_source_has_the_name_of_the_path(snn, data, tmp_path):
    facts = export(snn, tmp_path / "robot.c", example=data.test, timesteps=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "CMakeLists.txt",
        "robot.c",
        "robot.h",
        "robot.npz",
        "robot_test.c",
        "robot_weights.h",
    ]
    assert set(facts["files"]) == {str(path) for path in tmp_path.iterdir()}
    integer_file.replay(tmp_path / "robot.npz")
    compiler = next(filter(shutil.which, c.COMPILERS), None)
    if compiler:
        subprocess.run([compiler, "-std=c99", "robot.c", "robot_test.c", "-o", "robot"], cwd=tmp_path, check=True)
        assert subprocess.run([tmp_path / "robot"], capture_output=True, check=True).stdout == b"0 numbers differ\n"
    assert "robot.c" in (tmp_path / "CMakeLists.txt").read_text()


def test_a_format_can_be_named(snn, data, tmp_path):
    pytest.importorskip("nir")
    export(snn, tmp_path / "net.bin", example=data.test, format="nir", timesteps=2)
    nir.check(tmp_path / "net.bin", snn, data.test[0][0], 2)


def test_mistakes_are_named_and_write_nothing(ann, snn, data, tmp_path):
    for network, file, settings, message in (
        (
            snn,
            "net.pt",
            {},
            r"net\.pt: format=None: must be one of nir \(\.nir\), onnx \(\.onnx\), onnx_over_time \(by name\), "
            r"c \(\.c, \.npz\), verilog \(a folder\)",
        ),
        (snn, "net.nir", {"format": "vhdl"}, "format='vhdl': must be one of"),
        (ann, "net.npz", {}, "format=c: needs a spiking network; convert the model first"),
        (snn, "net.onnx", {}, "format=onnx: needs the ANN; pass the model"),
        (snn, "net.npz", {"weight_bits": 4}, "format=c: no setting 'weight_bits'; there are images, timesteps"),
        (snn, "net.npz", {"example": []}, "example: is empty"),
        (snn, "net.npz", {"images": 0}, "images=0"),
    ):
        with pytest.raises(ValueError, match=message):
            export(network, tmp_path / file, **{"example": data.test, **settings})
    assert not list(tmp_path.iterdir())


def test_the_example_runs():
    assert doctest.testmod(to_file) == (0, 9)
