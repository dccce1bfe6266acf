"""SNN calibration against a literal one: whole networks are run again for every layer, Adam is written out."""

import copy
import math

import pytest
import torch
from torch import nn

from snnconv.conversion.methods.layer_calibration import convert, distill
from snnconv.conversion.methods.qcfs import convert as qcfs
from snnconv.conversion.rules import largest
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.nn.functional import qcfs as quantized
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.side_by_side import side_by_side

SCHEDULES = [{"schedule": "step"}, {"schedule": "layer", "chunk": 3}, {"schedule": "layer", "chunk": 100}]
T = 8  # a mean over it is exact


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


class Literal(nn.Module):
    """v += x − bias;  s = 1[v ≥ θ];  v −= θ·s."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold, self.bias, self.v0 = threshold, 0.0, threshold / 2
        self.restart()

    def restart(self):
        self.v, self.inputs, self.outputs = self.v0, [], []

    def forward(self, x):
        bias = self.bias.view(1, -1, *[1] * (x.dim() - 2)) if isinstance(self.bias, torch.Tensor) else self.bias
        self.inputs.append(x)
        self.v = self.v + (x - bias)
        spikes = torch.where(self.v >= self.threshold, self.threshold, 0.0).to(x)
        self.v = self.v - spikes
        self.outputs.append(spikes)
        return spikes


def literal_network(ann: nn.Module, thresholds: dict[str, float]) -> nn.Module:
    network = copy.deepcopy(ann)
    for path, threshold in thresholds.items():
        parent, _, leaf = path.rpartition(".")
        setattr(network.get_submodule(parent), leaf, Literal(threshold))
    return network


@torch.no_grad()
def simulate(network: nn.Module, images: torch.Tensor, timesteps: int = T) -> torch.Tensor:
    for module in network.modules():
        if isinstance(module, Literal):
            module.restart()
    return torch.stack([network(images) for _ in range(timesteps)])


@torch.no_grad()
def output(ann: nn.Module, images: torch.Tensor, path: str) -> torch.Tensor:
    seen = []
    handle = ann.get_submodule(path).register_forward_hook(lambda m, i, o: seen.append(o))
    ann(images)
    handle.remove()
    return seen[0]


def light(ann, thresholds, images, timesteps=T) -> nn.Module:
    network = literal_network(ann, thresholds)
    for path in thresholds:
        simulate(network, images, timesteps)
        neuron, target = network.get_submodule(path), output(ann, images, path)
        rate = sum(neuron.outputs) / timesteps
        neuron.bias = torch.tensor([(rate[:, c] - target[:, c]).mean() for c in range(rate.shape[1])])
    return network


def potentials(ann, thresholds, images, timesteps=T) -> nn.Module:
    network = literal_network(ann, thresholds)
    for path in thresholds:
        simulate(network, images, timesteps)
        neuron, target = network.get_submodule(path), output(ann, images, path)
        rate = sum(neuron.outputs) / timesteps
        neuron.v0 = neuron.v0 + timesteps * (target.mean(0) - rate.mean(0))
    return network


@pytest.fixture
def batches(exact_images):
    return [(exact_images(4, seed).double(), torch.zeros(4)) for seed in (10, 11)]


@pytest.fixture
def together(batches):
    return torch.cat([images for images, _ in batches])


@pytest.fixture
def images(exact_images):
    return exact_images(5).double()


def learned(ann: nn.Module) -> dict[str, float]:
    return {path: module.threshold.item() for path, module in ann.named_modules() if isinstance(module, QCFS)}


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("literally", "settings"),
    [(light, {}), (potentials, {"variant": "advanced", "epochs": 0})],
    ids=["light", "potential"],
)
def test_equals_the_literal_calibration(exact_network, batches, together, images, kind, seed, literally, settings):
    ann = exact_network(kind, seed=seed).double()
    expected = simulate(literally(ann, learned(ann), together), images)
    for schedule in SCHEDULES:
        same(convert(ann, batches, **settings, simulate=schedule)(images, T), expected)
    assert expected.ne(qcfs(ann, [], neuron=IntegrateFire)(images, T)).any()


@pytest.mark.parametrize("literally", [light, potentials])
def test_relu_networks_get_thresholds_by_the_rule(exact_network, batches, together, images, literally):
    """… which is told L = T; each T is calibrated by itself."""

    def rule(samples, levels):
        return 2 ** largest(samples, levels).log2().ceil() * levels / 16

    ann = exact_network("residual", ReLU).double()
    largests = {
        path: output(ann, together, path).max().item() for path, m in ann.named_modules() if isinstance(m, ReLU)
    }
    snn = convert(ann, batches, rule=rule, variant="light" if literally is light else "advanced", epochs=0)
    for timesteps in (8, 4, 16):
        thresholds = {path: 2 ** math.ceil(math.log2(value)) * timesteps / 16 for path, value in largests.items()}
        expected = simulate(literally(ann, thresholds, together, timesteps), images, timesteps)
        same(snn(images, timesteps), expected)


# weights


def adam(weight: torch.Tensor, inputs: torch.Tensor, rest: torch.Tensor, target: torch.Tensor, theta: float, lr: float,
         orders: list[torch.Tensor]) -> torch.Tensor:  # fmt: skip
    """A linear layer's weight [M, K] after one step a minibatch; gradients by the chain rule, by hand."""
    weight, m, v = weight.clone(), torch.zeros_like(weight), torch.zeros_like(weight)
    for i, rows in enumerate(orders):
        z = inputs[rows] @ weight.T + rest[rows]
        level = torch.floor(T * z / theta + 0.5)
        error = theta * level.clamp(0, T) / T - target[rows]
        inside = (z >= 0) & (z <= theta)
        grad = (2 * error * inside / len(rows)).T @ inputs[rows]
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        rate = lr * (1 + math.cos(math.pi * i / len(orders))) / 2
        weight -= rate * (m / (1 - 0.9 ** (i + 1))) / ((v / (1 - 0.999 ** (i + 1))).sqrt() + 1e-8)
    return weight


def test_weights_follow_adam_on_the_distance_to_the_ann(together, batches):
    """Two linear layers, the second beside a shortcut: each weight after the first has settled, inputs averaged over time."""
    torch.manual_seed(3)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one, self.two = nn.Linear(16, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.a, self.b = QCFS(4, 1.0), QCFS(4, 2.0)

        def forward(self, x):
            y = self.a(self.stem(x.flatten(1)))
            return self.two(self.b(self.one(y) + y))

    ann, lr, epochs = Net().double().eval(), 0.02, 3
    ann.one.weight.requires_grad_(False)
    snn = convert(ann, batches, variant="advanced", epochs=epochs, lr=lr, batch_size=3, seed=5)
    snn.prepare(T)
    network = literal_network(ann, {"a": 1.0, "b": 2.0})
    generator = torch.Generator().manual_seed(5)
    for layer, path, inputs_of in (
        ("stem", "a", lambda: together.flatten(1)),
        ("one", "b", lambda: sum(network.a.outputs) / T),
    ):
        simulate(network, together)
        inputs, neuron, linear = inputs_of(), network.get_submodule(path), network.get_submodule(layer)
        rest = linear.bias.detach() + (inputs if path == "b" else 0)
        orders = [rows for _ in range(epochs) for rows in torch.randperm(8, generator=generator).split(3)]
        weight = adam(
            linear.weight.detach(),
            inputs,
            rest.expand(8, -1),
            output(ann, together, path),
            neuron.threshold,
            lr,
            orders,
        )
        assert (weight - linear.weight).abs().max() > lr
        linear.weight.data = weight
        torch.testing.assert_close(snn.network.get_submodule(layer).weight.data, weight, rtol=1e-9, atol=1e-12)
        simulate(network, together)
        neuron.v0 = neuron.v0 + T * (output(ann, together, path).mean(0) - (sum(neuron.outputs) / T).mean(0))
    same(snn(together, T).round(decimals=9), simulate(network, together).round(decimals=9))
    assert not any(parameter.grad is not None for parameter in snn.parameters())
    assert not snn.network.one.weight.requires_grad


def test_distillation_brings_a_layer_closer_to_the_ann():
    """A layer that receives few spikes comes closer to the ANN's activation, on images that it has not seen, too."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), ReLU(), nn.Linear(32, 32), ReLU(), nn.Linear(32, 4)).eval()
    for layer in (ann[1], ann[3]):
        layer.weight.data *= 2
    network = to_spiking(ann, ReLU, lambda path, site: IntegrateFire(1.0))
    *_, site = side_by_side(ann, network, torch.randn(600, 1, 4, 4), 4)
    inputs, target = site.mean_inputs(), site.activation

    @torch.no_grad()
    def error(rows):
        z = site.layer(*(x[rows] for x in inputs))
        return (quantized(z, torch.tensor(1.0), 4) - target[rows]).square().mean().item()

    seen, held = slice(0, 400), slice(400, None)
    before = error(seen), error(held)
    site.activation, site.mean_inputs = target[seen], lambda: [x[seen] for x in inputs]
    distill(site, [network[3].weight], 15, 3e-3, 32, torch.Generator())
    assert error(seen) < 0.9 * before[0]
    assert error(held) < 0.9 * before[1]


def test_needs_training_tells_what_was_changed(exact_network, batches):
    for activation, plain in ((lambda: QCFS(4), "activation"), (ReLU, "none")):
        ann = exact_network("plain", activation).double()
        says = lambda ann=ann, **settings: convert(ann, batches, rule=largest, **settings).latency.needs_training  # noqa: E731
        assert says() == says(variant="advanced", epochs=0) == plain
        assert says(variant="advanced", epochs=2) == "weights"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"variant": "heavy"}, r"method\.variant='heavy'"), ({"epochs": -1}, r"method\.epochs=-1"),
     ({"batch_size": 0}, r"method\.batch_size=0"), ({"lr": 0.0}, r"method\.lr=0\.0"), ({"images": 0}, r"method\.images=0")],
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
