"""scripts/export.py on a trained run: every format writes files and says what was compared; mistakes leave nothing."""

import json
from pathlib import Path

import pytest
from command import EVALUATE, FRESH, copy_run, fail, succeed

pytestmark = pytest.mark.cli
EXPORT = EVALUATE.with_name("export.py")


def made_in(run: Path) -> tuple[Path, dict]:
    """The folder of the only export of a run, and what export.json says."""
    (folder,) = (run / "evaluations" / "qcfs").iterdir()
    return folder, json.loads((folder / "export.json").read_text())


@pytest.mark.long
def test_the_spiking_network_as_nir(smoke: Path, tmp_path: Path):
    pytest.importorskip("nir")
    run = copy_run(smoke, tmp_path / "run")
    text = succeed(EXPORT, "run=run", "export=nir", "export.images=4", "timesteps=[2,4]", cwd=tmp_path, **FRESH)
    assert "differing spikes: 0" in text
    folder, found = made_in(run)
    assert found["files"] == {"network.nir": (folder / "network.nir").stat().st_size}
    assert (found["format"], found["images"], found["timesteps"]) == ("nir", 4, 4)
    assert found["rounding"]["differing_predictions"] == 0
    assert found["export"] == {"images": 4, "timesteps": [2, 4], "normalize": True, "v_initial": "metadata"}
    assert (found["method"], found["nodes"]["IF"]) == ("qcfs", found["thresholds_of_1"])


def test_the_quantized_network_as_onnx(smoke: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    run = copy_run(smoke, tmp_path / "run")
    succeed(EXPORT, "run=run", "export=onnx", "export.weight_bits=4", cwd=tmp_path)
    folder, found = made_in(run)
    assert found["files"] == {"network.onnx": (folder / "network.onnx").stat().st_size}
    assert found["quantized_activations"] > 0
    assert found["same_activations"]["largest_difference"] < 1e-4
    assert found["rounded_weights"]["bits"] == found["export"]["weight_bits"] == 4
    page = (folder / "report.html").read_text()
    assert "<h1>Export: onnx, qcfs</h1>" in page
    assert "network.onnx" in page


def test_the_network_of_whole_numbers_as_c(smoke: Path, tmp_path: Path):
    run = copy_run(smoke, tmp_path / "run")
    succeed(EXPORT, "run=run", "export=c", "integer=int4", "export.images=2", cwd=tmp_path)
    folder, found = made_in(run)
    assert found["files"] == {
        name: (folder / name).stat().st_size
        for name in ("snn.npz", "snn.h", "snn_weights.h", "snn.c", "snn_test.c", "CMakeLists.txt")
    }
    assert (found["export"]["bits"], found["export"]["images"]) == (4, 2)


@pytest.mark.long
def test_tables_of_costs_are_named_and_not_copied(smoke: Path, tmp_path: Path):
    run = copy_run(smoke, tmp_path / "run")
    succeed(EXPORT, "run=run", "export=verilog", "export.images=1", "export.timesteps=1", cwd=tmp_path)
    folder, found = made_in(run)
    assert found["export"]["costs"] == [name for name in found["energy_pJ"] if name != "rule"]
    assert "mac: " in (folder / ".hydra" / "config.yaml").read_text()


def test_the_report_tells_what_can_be_exported(smoke: Path):
    exports = json.loads((smoke / "result.json").read_text())["exports"]
    page = (smoke / "report.html").read_text()
    assert "<h2>Exports</h2>" in page
    assert list(exports) == ["nir", "onnx", "onnx_over_time", "c", "verilog"]
    assert exports["c"] == exports["verilog"] == "allowed"
    assert all(f'<td class="left">{name}</td>' in page for name in exports)


def test_mistakes_leave_nothing(smoke: Path, tmp_path: Path):
    run = copy_run(smoke, tmp_path / "run")
    assert "run=… is missing" in fail(EXPORT, cwd=tmp_path)
    text = fail(EXPORT, "run=run", "method=burst", "export=nir", cwd=tmp_path)
    assert "only plain integrate-and-fire neurons can be exported" in text
    assert not [path for name in ("*.nir", "*.onnx", "export.json") for path in run.rglob(name)]
