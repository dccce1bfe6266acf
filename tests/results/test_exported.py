"""Exports in reports: cycles, their time, and the energy of counted operations beside the estimate."""

import json
import re
from pathlib import Path

import pytest

from snnconv.results.exported import exports_below, row, write_page

VERILOG = {
    "format": "verilog", "method": "qcfs", "files": {"snn.v": 3000, "weights_2.hex": 96}, "compared": "8 spikes", "seed": 0,
    "cycles_per_image": [3000, 5000], "operations_per_image": {"accumulates": [10, 30], "macs": [2, 4]},
    "energy_pJ": {"rule": "counted: <all>.", "int8_45nm": {"counted": 3e6, "estimate": 2e6},
                  "fp32_45nm": {"counted": 5e6, "estimate": "0 (Max): not counted"}},
    "cells": {"step_2": {"lut": 1234, "block_ram": 1}}, "membrane_bits": {"2": 18}, "weight_bytes": 131664.0,
    "export": {"images": 2, "timesteps": 8, "clock_mhz": 50.0},
    "versions": {"torch": "2"}, "command": "snnconv export", "commit": None,
}  # fmt: skip
ONNX = {
    "format": "onnx", "method": "qcfs", "files": {"network.onnx": 2048}, "seed": 0, "end_to_end": {"largest_difference": 4.768e-07},
    "export": {"images": 8, "weight_bits": 8}, "versions": {}, "command": "snnconv export", "commit": "0" * 40,
}  # fmt: skip


def test_cycles_become_time_at_the_clock():
    values = row(VERILOG)
    assert (values["cycles"], values["size"], values["timesteps"]) == (4000, 3096, 8)
    assert values["milliseconds"] == pytest.approx(4000 / 50e6 * 1e3)
    assert values["energies"] == {
        "int8_45nm": {"counted": 3, "estimate": 2},
        "fp32_45nm": {"counted": 5, "estimate": None},  # the network has an operation without costs
    }
    assert row({**VERILOG, "cycles_per_image": None})["milliseconds"] is None  # no simulator
    assert row(VERILOG)["images"] == 2
    assert row({**VERILOG, "images": 1})["images"] == 1  # there were fewer than requested
    assert (row(ONNX)["cycles"], row(ONNX)["energies"]) == (None, {})


@pytest.mark.parametrize("record", [VERILOG, ONNX], ids=lambda record: record["format"])
def test_the_page_of_an_export(record, tmp_path: Path):
    write_page(tmp_path, record)
    text = (tmp_path / "report.html").read_text()
    assert text.count("<table") == text.count("</table>") > 0
    assert all(name in text for name in record["files"])
    plain = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", text))
    if record is VERILOG:
        assert "int8 45nm 3 2 1.50 fp32 45nm 5 – –" in plain
        assert "0.08 at 50 MHz" in text
        assert "counted: &lt;all&gt;." in text
        assert "1,234" in text
        assert "weight bytes 131664 " in plain
    else:
        assert "largest_difference: 4.768e-07" in text
        assert "µJ" not in text


def test_exports_of_a_run(tmp_path: Path, caplog):
    """But for those of its compressed networks; a damaged file is a warning."""
    for name, content in {
        "evaluations/qcfs/1": json.dumps(VERILOG),
        "evaluations/qcfs/2": json.dumps(ONNX),
        "evaluations/qcfs/3": "{",
        "compressed/prune30/evaluations/qcfs/1": json.dumps(ONNX),
    }.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "export.json").write_text(content)
    rows = exports_below(tmp_path)
    assert {(each["folder"], each["format"]) for each in rows} == {
        ("evaluations/qcfs/1", "verilog"),
        ("evaluations/qcfs/2", "onnx"),
    }
    (warning,) = caplog.messages
    assert "evaluations/qcfs/3" in warning
