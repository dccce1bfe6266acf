"""Integer networks with average pooling of currents, and with neurons at the end."""

import dataclasses
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hardware_networks import NETWORKS, act
from snnconv.conversion.methods import layer_calibration, qcfs, threshold
from snnconv.hardware.export import c
from snnconv.hardware.integer.file import read, replay
from snnconv.hardware.integer.golden import difference, differing_spikes, outcome, run
from snnconv.hardware.integer.network import in_real_units, integerize
from snnconv.hardware.integer.operations import LOGITS
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.recording import recording
from snnconv.spiking.tasks import Multilabel

T = 6


def spikes_of(snn, images):
    trains: dict[str, list] = {}
    with recording(snn, lambda path, spikes: trains.setdefault(path, []).append(spikes.clone())):
        logits = snn(images, T)
    return logits, {path: torch.cat(steps) for path, steps in trains.items()}


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 1, 4, 4, generator=generator), torch.zeros(8)) for _ in range(2)]


@pytest.mark.parametrize("settings", [{}, {"membrane_bits": 16}, {"bits": 4, "per_channel": False}])
@pytest.mark.parametrize("name", ["pooled", "spikes_out"])
def test_torch_and_numpy_agree_and_are_near_the_float_network(name, settings, batches):
    torch.manual_seed(3)
    snn = qcfs.convert(NETWORKS[name]().eval(), [], neuron=IntegrateFire)
    network = integerize(snn, batches, **settings)
    assert differing_spikes(network, batches, T, 16) == (0, 16)
    network.require_exact()
    expected, actual = (
        snn(batches[0][0], T).mean(0),
        (network.snn(batches[0][0], T) * network.units[LOGITS].float()).mean(0),
    )
    assert (actual - expected).square().mean() < (0.2 if settings.get("bits") else 0.02) * expected.var()


def fractions(shape, generator, bits: int = 8):
    """Random multiples of one number within ±2, of which the first of each channel is the largest that `bits` hold."""
    most = 2 ** (bits - 1)
    values = torch.randint(1 - most, most, shape, generator=generator)
    values.view(shape[0], -1)[:, 0] = most - 1
    return values / most * 2


@pytest.mark.parametrize("pools", [(nn.AvgPool2d(2), nn.Identity()), (nn.AvgPool2d(2, 1, 1), nn.AvgPool2d(2))])
def test_weights_that_need_no_rounding_give_the_same_spikes(pools):
    """Windows of 4 and of 16 currents: the bits hold weights and images, so only units change."""
    generator = torch.Generator().manual_seed(0)
    size = 4 if isinstance(pools[1], nn.Identity) else 2
    layers = [nn.Conv2d(1, 3, 3, padding=1, bias=False), *pools, QCFS(4, 2.0)]
    layers += [nn.Conv2d(3, 4, size // 2 if size == 4 else 1), act()]
    ann = nn.Sequential(*layers).eval()
    for layer in (layers[0], layers[4]):
        layer.weight.data = fractions(layer.weight.shape, generator)
        if layer.bias is not None:
            layer.bias.data = torch.randint(-64, 64, layer.bias.shape, generator=generator) / 64
    images = fractions((20, 1, 4, 4), generator, bits=5)
    snn = qcfs.convert(ann, [], neuron=IntegrateFire)
    network = integerize(snn, [(images, None)], image_bits=5)
    (_, expected), (logits, actual) = spikes_of(snn, images), spikes_of(network.snn, images)
    for path, spikes in expected.items():
        assert 0 < spikes.mean() < 1
        assert torch.equal(actual[path], spikes)
    assert torch.equal(logits, actual["5"])  # the outputs are the spikes
    assert network.units[LOGITS].tolist() == [1.0] * 4


def test_outputs_of_neurons_with_thresholds_of_each_channel(batches):
    """Spikes count θ of their channel, in units of 1/256 of the smallest θ."""
    torch.manual_seed(3)
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3), nn.ReLU()).eval()
    snn = threshold.convert(
        ann, batches, neuron=IntegrateFire, rule=lambda samples, levels: samples.amax(-1), per_channel=True
    )
    network, images = integerize(snn, batches), batches[0][0]
    theta = snn.neurons()["4"].threshold
    logits, spikes = outcome(network, images, T)
    assert torch.equal(torch.from_numpy(logits), torch.from_numpy(spikes["4"]) * (theta / theta.min() * 256).round())
    assert differing_spikes(network, batches, T, 16) == (0, 16)
    real = in_real_units(dataclasses.replace(network, snn=network.snn.for_task(Multilabel())))
    torch.testing.assert_close(real(images, T), torch.from_numpy(spikes["4"]) * theta.float(), rtol=0.002, atol=0)


def test_a_constant_bias_behind_padded_pooling(batches):
    """Padding is not biased, so the bias stays in the neuron."""
    torch.manual_seed(3)
    ann = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d(3, 1, 1), act(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    snn = layer_calibration.convert(ann, batches, images=16)
    network = integerize(snn, batches, timesteps=T)
    (neuron,) = network.neurons.values()
    assert neuron.node.bias.shape == (1, 4)
    assert differing_spikes(network, batches, T, 16) == (0, 16)
    expected, actual = (
        snn(batches[0][0], T).mean(0),
        (network.snn(batches[0][0], T) * network.units[LOGITS].float()).mean(0),
    )
    assert (actual - expected).square().mean() < 0.02 * expected.var()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pooled", "spikes_out"])
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_c(name, batches, tmp_path):
    torch.manual_seed(3)
    snn = qcfs.convert(NETWORKS[name]().eval(), [], neuron=IntegrateFire)
    c.export(None, snn, SimpleNamespace(calibration=batches, test=batches), tmp_path, images=8, timesteps=T)
    program, expected = read(tmp_path / "snn.npz"), replay(tmp_path / "snn.npz")
    flags = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsanitize=address,undefined")
    images = program.digitize(batches[0][0].numpy())
    assert difference(c.run_c(tmp_path, program, images, T, "cc", *flags), expected) is None


@pytest.mark.slow
@pytest.mark.parametrize("at_the_end", ["weights", "neurons"])
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_c_of_a_dense_map(at_the_end, batches, tmp_path):
    """Outputs [N, K, H, W]."""
    layers = [nn.Conv2d(1, 4, 3, padding=1), act(), nn.Conv2d(4, 2, 1), *([act()] if at_the_end == "neurons" else [])]
    snn = qcfs.convert(nn.Sequential(*layers).eval(), [], neuron=IntegrateFire)
    c.export(None, snn, SimpleNamespace(calibration=batches, test=batches), tmp_path, images=3, timesteps=T)
    program = read(tmp_path / "snn.npz")
    images = program.digitize(batches[0][0][:3].numpy())
    expected = run(program, images, T)
    assert expected[0].shape == (T, 3, 2, 4, 4)
    assert difference(c.run_c(tmp_path, program, images, T, "cc"), expected) is None
    subprocess.run(["cc", "-std=c99", "snn.c", "snn_test.c", "-o", "test"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "test"]).returncode == 0
