"""FTBC against a literal calibration: whole networks are run again for every layer, neurons are loops over steps."""

import copy

import pytest
import torch
from torch import nn

from snnconv.conversion.methods.qcfs import convert as qcfs
from snnconv.conversion.methods.temporal_bias import convert, temporal_bias
from snnconv.conversion.rules import largest
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

SCHEDULES = [{"schedule": "step"}, {"schedule": "layer", "chunk": 3}, {"schedule": "layer", "chunk": 100}]
T = 6


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


class Literal(nn.Module):
    """An IF neuron that the network calls once a step; in step t its potential is lowered by bias[t] first."""

    def __init__(self, threshold: float, timesteps: int, no_debt: bool = False) -> None:
        super().__init__()
        self.threshold, self.no_debt = threshold, no_debt
        self.bias = [0.0] * timesteps
        self.restart()

    def restart(self):
        self.v, self.t, self.inputs, self.fired = self.threshold / 2, 0, [], False

    def forward(self, x):
        self.inputs.append(x)
        bias = self.bias[self.t]
        shape = (1, -1, *[1] * (x.dim() - 2))
        self.v = self.v - (bias.view(shape) if isinstance(bias, torch.Tensor) else bias)
        self.v = self.v + x
        spikes = torch.where(self.v >= self.threshold, self.threshold, 0.0).to(x)
        self.v = self.v - spikes
        self.fired = self.fired | (spikes > 0)
        if self.no_debt:
            self.v = torch.where(self.fired, self.v, self.v.clamp_min(0))
        self.t += 1
        return spikes


def literal_network(ann: nn.Module, thresholds: dict[str, float], timesteps: int, no_debt: bool = False) -> nn.Module:
    network = copy.deepcopy(ann)
    for path, threshold in thresholds.items():
        parent, _, leaf = path.rpartition(".")
        setattr(network.get_submodule(parent), leaf, Literal(threshold, timesteps, no_debt))
    return network


@torch.no_grad()
def simulate(network: nn.Module, images: torch.Tensor, timesteps: int) -> torch.Tensor:
    for module in network.modules():
        if isinstance(module, Literal):
            module.restart()
    return torch.stack([network(images) for _ in range(timesteps)])


def outputs(ann: nn.Module, images: torch.Tensor, path: str) -> torch.Tensor:
    seen = []
    handle = ann.get_submodule(path).register_forward_hook(lambda m, i, o: seen.append(o.detach()))
    ann(images)
    handle.remove()
    return seen[0]


def calibrate_literally(ann, thresholds, parts, alpha, timesteps, no_debt=False) -> nn.Module:
    """Per batch, layer and step: fire, compare with the ANN, move the bias of the step, fire again with what it now is."""
    network = literal_network(ann, thresholds, timesteps, no_debt)
    for images in parts:
        for path, threshold in thresholds.items():
            simulate(network, images, timesteps)
            neuron, target = network.get_submodule(path), outputs(ann, images, path)
            inputs, v, fired = neuron.inputs, threshold / 2, torch.zeros_like(target).bool()
            for t in range(timesteps):
                old = (
                    neuron.bias[t]
                    if isinstance(neuron.bias[t], torch.Tensor)
                    else torch.zeros(target.shape[1]).double()
                )
                new = old.clone()
                raised = inputs[t] + v
                for c in range(target.shape[1]):
                    charged = raised[:, c] - old[c]
                    spikes = threshold * (charged >= threshold).double()
                    new[c] += alpha * ((spikes - target[:, c]).sum() / spikes.numel())
                    raised[:, c] -= new[c]
                v = raised - threshold * (raised >= threshold).double()
                fired |= raised >= threshold
                v[~fired] = v[~fired].clamp_min(0) if no_debt else v[~fired]
                neuron.bias[t] = new
    return network


@pytest.fixture
def batches(exact_images):
    return [(exact_images(4, seed).double(), torch.zeros(4)) for seed in (10, 11)]


@pytest.fixture
def images(exact_images):
    return exact_images(5).double()


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize(("seed", "alpha", "rounds"), [(0, 0.5, 1), (1, 0.5, 2), (2, 0.25, 4), (3, 1.0, 1)])
def test_equals_the_literal_calibration(exact_network, batches, images, kind, seed, alpha, rounds):
    ann = exact_network(kind, seed=seed).double()
    thresholds = {path: m.threshold.item() for path, m in ann.named_modules() if isinstance(m, QCFS)}
    parts = torch.cat([images for images, _ in batches]).split(8 // rounds)
    literal = calibrate_literally(ann, thresholds, parts, alpha, T)
    expected = simulate(literal, images, T)
    for schedule in SCHEDULES:
        snn = convert(ann, batches, alpha=alpha, rounds=rounds, simulate=schedule)
        same(snn(images, T), expected)
    assert expected.ne(qcfs(ann, [], neuron=IntegrateFire)(images, T)).any()
    for path, neuron in snn.neurons().items():
        same(neuron.node.bias, -torch.stack(literal.get_submodule(path.removesuffix(".neuron")).bias))


def test_without_debt_equals_the_literal_calibration(exact_network, batches, images):
    ann = exact_network("residual", seed=3).double()
    thresholds = {path: m.threshold.item() for path, m in ann.named_modules() if isinstance(m, QCFS)}
    parts = torch.cat([images for images, _ in batches]).split(4)
    literal = calibrate_literally(ann, thresholds, parts, 0.5, T, no_debt=True)
    expected = simulate(literal, images, T)
    for schedule in SCHEDULES:
        same(convert(ann, batches, no_debt=True, simulate=schedule)(images, T), expected)
    assert expected.ne(convert(ann, batches)(images, T)).any()


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_relu_networks_get_thresholds_by_the_rule(exact_network, batches, images, kind):
    ann = exact_network(kind, ReLU).double()
    together = torch.cat([images for images, _ in batches])
    thresholds = {
        path: outputs(ann, together, path).max().item() for path, m in ann.named_modules() if isinstance(m, ReLU)
    }
    expected = simulate(calibrate_literally(ann, thresholds, [together], 0.5, T), images, T)
    same(convert(ann, batches, rounds=1, rule=largest)(images, T), expected)


def test_biases_for_few_steps_begin_those_for_many(exact_network, batches, images):
    """So one run gives the accuracy at every t."""
    ann = exact_network("residual").double()
    snn = convert(ann, batches)
    assert snn.timing.anytime
    found = []
    for timesteps in (3, 9):
        snn.prepare(timesteps)
        found.append([neuron.node.bias for neuron in snn.neurons().values()])
    for few, many in zip(*found, strict=True):
        assert (len(few), len(many)) == (3, 9)
        same(few, many[:3])
    same(snn(images, 9)[:3], snn(images, 3))


def test_thresholds_that_depend_on_t_make_the_network_depend_on_it(exact_network, batches):
    def rule(samples, levels):
        return samples.max() / levels

    ann = exact_network("plain", ReLU).double()
    assert not convert(ann, batches, rule=rule).timing.anytime
    assert convert(ann, batches, rule=rule, levels=4).timing.anytime
    snn = convert(ann, batches, rule=rule)
    got = []
    for timesteps in (2, 4):
        snn.prepare(timesteps)
        got.append([neuron.threshold for neuron in snn.neurons().values()])
    assert got[0] == [2 * theta for theta in got[1]]


def test_the_mean_error_of_every_step_shrinks():
    """Main claim of the paper: after some rounds the mean output of each step and channel is the ANN's."""
    torch.manual_seed(0)
    current = torch.randn(T, 400, 3, 5, 5) + torch.tensor([0.1, 0.5, -0.2]).view(3, 1, 1)
    target = current.mean(0).clamp(0, 1)

    def errors(bias):
        v, found = torch.full_like(target, 0.5), []
        for x, b in zip(current, bias, strict=True):
            v = v + x + b.view(-1, 1, 1)
            spikes = (v >= 1).float()
            v = v - spikes
            found.append((spikes - target).mean((0, 2, 3)).abs())
        return torch.stack(found)

    bias = torch.zeros(T, 3)
    before = errors(bias)
    for _ in range(30):
        bias = temporal_bias(current, target, 1.0, bias, 1.0)
    assert before.max() > 0.1
    assert errors(bias).max() < 0.01


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"alpha": 0.0}, r"method\.alpha=0\.0"), ({"alpha": 1.5}, r"method\.alpha=1\.5"), ({"rounds": 0}, r"method\.rounds=0"),
     ({"images": 0}, r"method\.images=0"), ({"levels": 0}, r"method\.levels=0")],
)  # fmt: skip
def test_wrong_settings_are_named(exact_network, batches, wrong, message):
    with pytest.raises(ValueError, match=message):
        convert(exact_network(), batches, **wrong)


def test_needs_images(exact_network):
    with pytest.raises(ValueError, match=r"data\.calibration"):
        convert(exact_network(), [])


def test_a_relu_network_needs_a_rule(exact_network, batches):
    with pytest.raises(ValueError, match=r"method\.rule"):
        convert(exact_network("plain", ReLU), batches)
