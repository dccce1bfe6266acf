"""The integer network as Verilog: simulators emit the golden model's spikes, and a flipped weight bit is noticed."""

import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from hardware_networks import NETWORKS, Signals, act
from snnconv.conversion.methods import qcfs
from snnconv.hardware.export import verilog, verilog_tools
from snnconv.hardware.export.to_file import export
from snnconv.hardware.export.verilog_design import words
from snnconv.runtime.checkpoint import load_ann
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

STORED = Path(__file__).parents[1] / "stored_runs"


def needs(tool: str):
    return pytest.mark.skipif(not shutil.which(tool), reason=f"{tool} is not installed")


@pytest.fixture
def data(exact_images):
    batches = [(exact_images(4, seed), torch.zeros(4)) for seed in (1, 2)]
    return SimpleNamespace(calibration=batches, test=batches)


def spiking(name: str):
    torch.manual_seed(3)
    return qcfs.convert(NETWORKS[name]().eval(), [], neuron=IntegrateFire)


@needs("iverilog")
@pytest.mark.parametrize("name", NETWORKS)
def test_every_operation_in_icarus(name, data, tmp_path, monkeypatch):
    monkeypatch.setattr(verilog_tools, "SIMULATORS", ("iverilog",))
    facts = verilog.export(None, spiking(name), data, tmp_path, images=2, timesteps=2)
    assert (facts["differing_from_the_golden_model"], facts["simulator"]) == (0, "iverilog")
    assert facts["files"] == {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    cycles = facts["cycles_per_image"]
    assert facts["ms_per_image_at_100_MHz"] == pytest.approx([n / 1e5 for n in cycles], abs=1e-4)
    operations = facts["operations_per_image"]
    assert [a + m for a, m in zip(operations["accumulates"], operations["macs"], strict=True)] == facts[
        "accumulates_per_image"
    ]
    assert all(facts["energy_pJ"][table]["counted"] > 0 for table in ("int8_45nm", "int8_45nm_sram"))


@needs("iverilog")
@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 2, "membrane_bits": 12},
        {"per_channel": False, "image_bits": 4},
        {"bits": "binary"},
        {"bits": "power_of_two", "image_bits": 6},
    ],
)
def test_other_widths(settings, data, tmp_path, monkeypatch):
    monkeypatch.setattr(verilog_tools, "SIMULATORS", ("iverilog",))
    facts = verilog.export(None, spiking("shortcut_a"), data, tmp_path, images=1, timesteps=3, **settings)
    assert facts["differing_from_the_golden_model"] == 0


@needs("iverilog")
def test_signals(data, tmp_path, monkeypatch):
    monkeypatch.setattr(verilog_tools, "SIMULATORS", ("iverilog",))
    snn = qcfs.convert(Signals().eval(), [], neuron=IntegrateFire)
    signals = [(x.squeeze(1), target) for x, target in data.test]
    facts = verilog.export(None, snn, SimpleNamespace(calibration=signals, test=signals), tmp_path, timesteps=2)
    assert facts["differing_from_the_golden_model"] == 0


@needs("iverilog")
def test_a_flipped_bit_is_caught(data, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    verilog.export(None, spiking("plain"), data, tmp_path, images=2, timesteps=3)
    assert verilog_tools.simulate(tmp_path, "iverilog").differing == 0
    for memory in ("weights_1", "threshold_2", "multiplier_5"):
        file = tmp_path / f"{memory}.hex"
        before = file.read_text()
        first, rest = before.split("\n", 1)
        bit = 1 << max(0, 4 * len(first) - 5)  # a high one, beside the sign
        file.write_text(f"{int(first, 16) ^ bit:0{len(first)}x}\n{rest}")
        assert verilog_tools.simulate(tmp_path, "iverilog").differing > 0, memory
        file.write_text(before)


def test_nothing_is_kept_that_differs(data, tmp_path, monkeypatch):
    report = verilog_tools.Simulated(3, 100, [7])
    monkeypatch.setattr(verilog_tools, "simulate", lambda folder, simulator: report)
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    with pytest.raises(
        ValueError, match=r"snn\.v differs from the golden model: 3 of 100 spikes and logits differ in verilator"
    ):
        verilog.export(None, spiking("plain"), data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_tools(data, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    facts = verilog.export(None, spiking("plain"), data, tmp_path)
    assert "none of verilator, iverilog was found, so snn.v was not simulated" in facts["simulator"]
    assert (tmp_path / "snn.v").exists()
    with pytest.raises(ValueError, match=r"export\.cells=true: needs yosys, which is not installed"):
        verilog.export(None, spiking("plain"), data, tmp_path, cells=True)


@needs("iverilog")
def test_another_clock(data, tmp_path, monkeypatch):
    monkeypatch.setattr(verilog_tools, "SIMULATORS", ("iverilog",))
    facts = verilog.export(
        None, spiking("plain"), data, tmp_path, images=1, timesteps=1, clock_mhz=0.5, costs="int8_45nm"
    )
    (cycles,) = facts["cycles_per_image"]
    assert facts["ms_per_image_at_0.5_MHz"] == [round(cycles / 500, 4)]
    assert set(facts["energy_pJ"]) == {"rule", "int8_45nm"}
    with pytest.raises(ValueError, match=r"export\.clock_mhz=0: must be a positive number"):
        verilog.export(None, spiking("plain"), data, tmp_path, clock_mhz=0)


def test_from_python_into_a_folder(data, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    facts = export(spiking("plain"), tmp_path / "rtl", example=data.test, format="verilog", timesteps=2)
    assert set(facts["files"]) == {str(path) for path in (tmp_path / "rtl").iterdir()}
    assert all(path.read_bytes().endswith(b"\n") for path in (tmp_path / "rtl").iterdir())
    with pytest.raises(ValueError, match=r"a: format=None: must be one of"):
        export(spiking("plain"), tmp_path / "a", example=data.test)


def test_words_are_twos_complement():
    assert words(torch.tensor([0, 1, -1, -128, 127]).numpy(), 8) == b"00\n01\nff\n80\n7f\n"
    assert words(torch.tensor([-1, 3]).numpy(), 5) == b"1f\n03\n"


def small_vgg() -> nn.Module:
    """A VGG for digits [1, 8, 8]: four convolutions, average pooling, two linear layers."""
    widths, layers = [1, 8, 8, 16, 16], []
    for number, (one, other) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(one, other, 3, padding=1), nn.BatchNorm2d(other), act()]
        layers += [nn.AvgPool2d(2)] if number % 2 else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 32), act(), nn.Linear(32, 10))


@pytest.fixture
def digits(compose_config):
    return instantiate(compose_config("model=mlp", "levels=4", "device=cpu").data)


@needs("verilator")
@pytest.mark.long
@pytest.mark.parametrize("name", ["mlp", "resnet20", "small_vgg"])
def test_digits_in_verilator(name, digits, tmp_path):
    torch.manual_seed(0)
    ann = small_vgg().eval() if name == "small_vgg" else load_ann(STORED / name)
    facts = verilog.export(None, qcfs.convert(ann, []), digits, tmp_path, images=2, timesteps=4)
    assert (facts["differing_from_the_golden_model"], facts["simulator"]) == (0, "verilator")


@needs("yosys")
@pytest.mark.long
def test_cells_of_each_layer(digits, tmp_path):
    ann = load_ann(STORED / "mlp")
    cells = verilog.export(None, qcfs.convert(ann, []), digits, tmp_path, images=1, timesteps=1, cells=True)["cells"]
    assert {"step_2", "step_3", "sequencer"} <= set(cells)
    assert all(100 < cells[step]["lut"] < 500 for step in ("step_2", "step_3", "step_4"))
    assert sum(step["block_ram"] for step in cells.values()) >= 1
