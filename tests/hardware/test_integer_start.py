"""Integer networks of methods that calibrate v(0) of every neuron, or a constant bias, for one T."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hardware_networks import NETWORKS, act
from snnconv.conversion.methods import layer_calibration, potential_init, temporal_bias
from snnconv.hardware.export import c, verilog, verilog_tools
from snnconv.hardware.integer.file import replay
from snnconv.hardware.integer.golden import outcome, result_of, run, verified
from snnconv.hardware.integer.network import integerize
from snnconv.hardware.integer.program import program_of
from snnconv.hardware.integer.ranges import membrane_bits

T = 3
METHODS = {
    "potential_init": lambda ann, batches: potential_init.convert(ann, batches, variant="per_neuron", images=16),
    "light": lambda ann, batches: layer_calibration.convert(ann, batches, images=16),
    "advanced": lambda ann, batches: layer_calibration.convert(ann, batches, variant="advanced", images=16, epochs=1),
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
    potentials, trains = {}, {path: [] for path in program.neurons()}
    for _ in range(timesteps):
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
                    spikes[n, i] = v >= theta[channel]
                    potentials[number, n, i] = v - theta[channel] * spikes[n, i]
            values.append(spikes.reshape(-1, *step.shape))
            trains[step.name].append(values[-1])
    return {path: np.stack(steps) for path, steps in trains.items()}


@pytest.mark.parametrize("method", METHODS)
def test_torch_numpy_and_a_loop_over_neurons_agree(method, data):
    snn = spiking(method, "shortcut_a", data)
    network = integerize(snn, data.calibration, timesteps=T)
    images = data.test[0][0][:2]
    program = program_of(network, images.shape[1:])
    digits = program.digitize(images.numpy())
    logits, spikes = run(program, digits, T)
    torch_logits, torch_spikes = outcome(network, images, T)
    assert np.array_equal(torch_logits, logits)
    expected = literal(program, digits, T)
    for path, trains in expected.items():
        assert np.array_equal(spikes[path], trains)
        assert np.array_equal(torch_spikes[path], trains)
    each = [
        step.arrays["start"].size > step.shape[0]
        for step in program.steps
        if step.kind == "fire" and len(step.shape) > 1
    ]
    assert any(each) == (method != "light")
    assert max(network.widths().values()) <= max(membrane_bits(program, T).values())


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
    logits, _ = replay(tmp_path / "snn.npz")
    assert logits.shape == (T, 2, 3)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("iverilog"), reason="iverilog is not installed")
@pytest.mark.parametrize("settings", [{}, {"membrane_bits": 14}])
def test_verilog(settings, data, tmp_path, monkeypatch):
    monkeypatch.setattr(verilog_tools, "SIMULATORS", ("iverilog",))
    snn = spiking("potential_init", "residual", data)
    facts = verilog.export(None, snn, data, tmp_path, images=2, timesteps=T, **settings)
    assert facts["differing_from_the_golden_model"] == 0
    before = (memory := next(tmp_path.glob("initial_*.hex"))).read_text()
    assert len(before.split()) == 64  # one for each neuron of the first layer
    memory.write_text("\n".join(reversed(before.split())) + "\n")
    assert verilog_tools.simulate(tmp_path, "iverilog").differing > 0


def test_one_t_only(data):
    snn = spiking("potential_init", "plain", data)
    with pytest.raises(ValueError, match=r"its network depends on T; pass timesteps=…"):
        integerize(snn, data.calibration)
    with pytest.raises(ValueError, match=r"integers are for one network; choose one T, for example timesteps=\[8\]"):
        verified(snn, data.calibration, data.test, 8)
    assert verified(snn, data.calibration, data.test, [T], golden=2)[1] == 2
    snn.prepare(T)
    assert integerize(snn, data.calibration).neurons  # of the present network


def test_what_has_no_integer_form(data):
    torch.manual_seed(3)
    snn = temporal_bias.convert(NETWORKS["plain"]().eval(), data.calibration, images=16)
    with pytest.raises(
        ValueError, match=r"its bias changes over time, and integer neurons have none; use method=layer_cal"
    ):
        integerize(snn, data.calibration, timesteps=T)


def test_a_bias_of_one_of_two_neurons_behind_a_sum(data):
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.a, self.b, self.fc = nn.Conv2d(1, 2, 3), act(), act(), nn.Linear(8, 3)

        def forward(self, x):
            x = self.conv(x)
            return self.fc((self.a(x) + self.b(x)).flatten(1))

    snn = layer_calibration.convert(Shared().eval(), data.calibration, images=16)
    with pytest.raises(
        ValueError, match=r"a: its bias cannot become a part of the weights before it, because b receives"
    ):
        integerize(snn, data.calibration, timesteps=T)
