"""Integer networks of methods that calibrate v(0) of every neuron, or a bias, constant or not, for one T."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hardware_networks import NETWORKS, act
from snnconv.conversion.methods import layer_calibration, potential_init, qcfs, temporal_bias
from snnconv.hardware.export import c, verilog, verilog_tools
from snnconv.hardware.integer.file import read, replay
from snnconv.hardware.integer.golden import difference, outcome, result_of, run, verified
from snnconv.hardware.integer.network import integerize
from snnconv.hardware.integer.operations import LOGITS
from snnconv.hardware.integer.program import program_of
from snnconv.hardware.integer.ranges import bits_bound
from snnconv.spiking.neurons.no_debt import NoDebtIntegrateFire

T = 3
METHODS = {
    "potential_init": lambda ann, batches: potential_init.convert(ann, batches, variant="per_neuron", images=16),
    "light": lambda ann, batches: layer_calibration.convert(ann, batches, images=16),
    "advanced": lambda ann, batches: layer_calibration.convert(ann, batches, variant="advanced", images=16, epochs=1),
    "temporal_bias": lambda ann, batches: temporal_bias.convert(ann, batches, images=16),
    "no_debt_bias": lambda ann, batches: temporal_bias.convert(ann, batches, images=16, no_debt=True),
    "no_debt": lambda ann, batches: qcfs.convert(ann, [], neuron=NoDebtIntegrateFire),
}


@pytest.fixture
def data(exact_images):
    batches = [(exact_images(8, seed), torch.zeros(8)) for seed in (1, 2)]
    return SimpleNamespace(calibration=batches, test=batches)


def spiking(method: str, name: str, data):
    torch.manual_seed(3)
    return METHODS[method](NETWORKS[name]().eval(), data.calibration)


def literal(program, images, timesteps):
    """Spikes of every layer with a loop over neurons; all other steps are those of `run`."""
    potentials, fired, trains = {}, set(), {path: [] for path in program.neurons()}
    for t in range(timesteps):
        values = []
        for number, step in enumerate(program.steps):
            inputs = [images] if step.kind == "image" else [values[source] for source in step.inputs]
            if step.kind != "fire":
                values.append(result_of(step, {k: v.astype(np.int64) for k, v in step.arrays.items()}, inputs))
                continue
            channels = step.shape[0]
            theta, start = step.arrays["threshold"], step.arrays["start"]
            spikes = np.zeros((len(images), step.size), np.int64)
            for n in range(len(images)):
                for i, x in enumerate(inputs[0][n].ravel()):
                    channel = i // (step.size // channels)
                    first = start[i] if len(start) == step.size else start[channel]
                    v = potentials.get((number, n, i), int(first)) + x
                    if "bias" in step.arrays:
                        rows = step.arrays["bias"]
                        v += rows[t if t < len(rows) else len(rows) - 1][channel]
                    if v >= theta[channel]:
                        spikes[n, i] = 1
                        v -= theta[channel]
                        fired.add((number, n, i))
                    if step.settings.get("no_debt") and (number, n, i) not in fired and v < 0:
                        v = 0
                    potentials[number, n, i] = v
            values.append(spikes.reshape(-1, *step.shape))
            trains[step.name].append(values[-1])
    return {path: np.stack(steps) for path, steps in trains.items()}


@pytest.mark.parametrize("method", METHODS)
def test_torch_numpy_and_a_loop_over_neurons_agree(method, data):
    snn = spiking(method, "shortcut_a", data)
    network = integerize(snn, data.calibration, timesteps=T)
    images, longer = data.test[0][0][:2], T + 2
    program = program_of(network, images.shape[1:])
    digits = program.digitize(images.numpy())
    logits, spikes = run(program, digits, longer)
    torch_logits, torch_spikes = outcome(network, images, longer)
    assert np.array_equal(torch_logits, logits)
    expected = literal(program, digits, longer)
    for path, trains in expected.items():
        assert np.array_equal(spikes[path], trains)
        assert np.array_equal(torch_spikes[path], trains)
    each = [
        step.arrays["start"].size > step.shape[0]
        for step in program.steps
        if step.kind == "fire" and len(step.shape) > 1
    ]
    assert any(each) == (method in ("potential_init", "advanced"))
    bounds = bits_bound(program, longer)["membrane_bits_bound"]
    assert all(bits <= bounds[path] for path, bits in network.widths().items())
    fires = [step for step in program.steps if step.kind == "fire"]
    assert [step.arrays["bias"].shape for step in fires if "bias" in step.arrays] == [
        (T, step.shape[0]) for step in fires if method in ("temporal_bias", "no_debt_bias")
    ]
    assert all(step.settings.get("no_debt", False) == method.startswith("no_debt") for step in fires)


@pytest.mark.parametrize("method", ["potential_init", "light"])
def test_v0_and_biases_in_units_of_the_potentials(method, data):
    snn = spiking(method, "plain", data)
    network = integerize(snn, data.calibration, timesteps=T)
    snn.prepare(T)
    for path, neuron in snn.neurons().items():
        unit = network.units[path].double()
        node = network.neurons[path].node
        if method == "light":
            assert torch.equal(node.start, (neuron.threshold / 2 / unit).round())
            continue
        v = neuron.v_initial.double() * neuron.threshold
        assert torch.equal(node.start, (v / unit.view(-1, *[1] * (v.dim() - 1))).round())
    if method == "light":  # the bias of the neuron is in the layer before it
        path, neuron = next(iter(snn.neurons().items()))
        layer = next(layer for layer in snn.network.modules() if isinstance(layer, nn.Conv2d))
        integers = next(iter(network.layers.values()))
        expected = (layer.bias.detach().double() + neuron.node.bias[0]) / network.units[path].double()
        assert (integers.bias - expected).abs().max() <= 0.5 + 1e-3


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
@pytest.mark.parametrize("method", METHODS)
def test_c_and_npz(method, data, tmp_path):
    facts = c.export(None, spiking(method, "shortcut_a", data), data, tmp_path, images=2, timesteps=T)
    assert "snn.c" in facts["files"]
    program, expected = read(tmp_path / "snn.npz"), replay(tmp_path / "snn.npz")
    images = program.digitize(data.test[0][0][:2].numpy())
    flags = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsanitize=address,undefined")
    assert difference(c.run_c(tmp_path, program, images, T, "cc", *flags), expected) is None
    longer = c.run_c(tmp_path, program, images, T + 3, "cc", *flags)
    assert difference(longer, run(program, images, T + 3)) is None
    with np.load(tmp_path / "snn.npz") as entries:
        about = json.loads(bytes(entries["description"]))
    assert about["format"].endswith("2" if program.varied else "1")


@pytest.mark.parametrize(("method", "name"), [
    ("temporal_bias", "pooled"), ("no_debt_bias", "shortcut_a"), ("no_debt", "residual"), ("potential_init", "low_rank"),
])  # fmt: skip
def test_a_reader_without_snnconv(method, name, data, tmp_path):
    """The reader of the study of exported files, which has only the README of the file."""
    c.export(None, spiking(method, name, data), data, tmp_path, images=2, timesteps=T, source=False)
    network, program = npz_reader().Network(tmp_path / "snn.npz"), read(tmp_path / "snn.npz")
    images = program.digitize(data.test[0][0][:3].numpy())
    assert np.array_equal(network.digitized(data.test[0][0][:3].numpy()), images)
    assert difference(network.run(images.astype(float), T + 2), run(program, images, T + 2)) is None


def npz_reader():
    path = Path(__file__).parents[2] / "scripts" / "readers" / "npz_reader.py"
    specification = importlib.util.spec_from_file_location("npz_reader", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("iverilog"), reason="iverilog is not installed")
@pytest.mark.parametrize("settings", [{}, {"membrane_bits": 14}])
@pytest.mark.parametrize("method", ["potential_init", "no_debt_bias"])
def test_verilog(method, settings, data, tmp_path, monkeypatch):
    monkeypatch.setattr(verilog_tools, "SIMULATORS", ("iverilog",))
    snn = spiking(method, "residual", data)
    facts = verilog.export(None, snn, data, tmp_path, images=2, timesteps=T, **settings)
    assert facts["differing_from_the_golden_model"] == 0
    name, size = {"potential_init": ("initial_2", 64), "no_debt_bias": ("bias_2", 4 * T)}[method]  # of the first layer
    before = (memory := tmp_path / f"{name}.hex").read_text()
    assert len(before.split()) == size
    words = [int(word, 16) for word in before.split()]
    high = 1 << (max(words).bit_length() - 2)  # the bit beside the sign
    memory.write_text("".join(f"{word ^ high:x}\n" for word in words))
    assert verilog_tools.simulate(tmp_path, "iverilog").differing > 0


def test_one_t_only(data):
    snn = spiking("potential_init", "plain", data)
    with pytest.raises(ValueError, match=r"its network depends on T; pass timesteps=…"):
        integerize(snn, data.calibration)
    with pytest.raises(ValueError, match=r"integers are for one network; choose one T, for example timesteps=\[8\]"):
        verified(snn, data.calibration, data.test, 8)
    assert verified(snn, data.calibration, data.test, [T], golden=2)[1] == 2
    anytime = spiking("temporal_bias", "plain", data)
    network, _ = verified(anytime, data.calibration, data.test, [2, T], golden=2)
    one, _ = verified(anytime, data.calibration, data.test, [2], golden=2)
    assert torch.equal(network.snn(data.test[0][0], T)[:2], one.snn(data.test[0][0], 2))
    snn.prepare(T)
    assert integerize(snn, data.calibration).neurons  # of the present network


@pytest.mark.parametrize("method", ["temporal_bias", "no_debt_bias"])
def test_biases_over_time_in_units_of_the_potentials(method, data):
    snn = spiking(method, "plain", data)
    network = integerize(snn, data.calibration, timesteps=T)
    snn.prepare(T)
    for path, neuron in snn.neurons().items():
        exact = neuron.node.bias / network.units[path].double()
        assert not (exact == exact[:1]).all()
        assert (network.neurons[path].node.bias - exact).abs().max() <= 0.5
    real = [(each.snn(data.test[0][0], T)).mean(0) for each in (network, SimpleNamespace(snn=snn))]
    scaled = real[0] * network.units[LOGITS].float()
    assert ((scaled - real[1]).square().mean() / real[1].var()) < 0.05


def test_a_bias_that_float32_cannot_hold(data):
    snn = spiking("temporal_bias", "plain", data)
    snn.prepare(T)
    next(iter(snn.neurons().values())).node.bias *= 1e9
    with pytest.raises(ValueError, match=r"2: current and bias of a step could reach \S+ units"):
        integerize(snn, data.calibration)


def test_a_bias_of_one_of_two_neurons_behind_a_sum(data):
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.a, self.b, self.fc = nn.Conv2d(1, 2, 3), act(), act(), nn.Linear(8, 3)

        def forward(self, x):
            x = self.conv(x)
            return self.fc((self.a(x) + self.b(x)).flatten(1))

    snn = layer_calibration.convert(Shared().eval(), data.calibration, images=16)
    network, compared = verified(snn, data.calibration, data.test, [T], golden=8)
    assert compared == 8
    assert [len(neuron.node.bias) for neuron in network.neurons.values()] == [
        1,
        1,
    ]  # not in the weights, which both read
