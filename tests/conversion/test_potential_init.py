"""Initial potentials against whole simulations, one for every site, as the authors of SNN calibration run them."""

import copy

import pytest
import torch
from torch import nn

from snnconv.conversion.methods.potential_init import convert
from snnconv.conversion.rules import largest
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.spiking.model import SpikingModel

SCHEDULES = [{"schedule": "step"}, {"schedule": "layer", "chunk": 3}]
QUANTIZED = lambda: QCFS(4)  # noqa: E731


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture
def batches(exact_images):
    """8 images, whose means have no rounding."""
    return [(exact_images(4, seed).double(), torch.zeros(4)) for seed in (10, 11)]


class Literal(nn.Module):
    """v += x;  s = 1[v ≥ θ];  v −= θ·s, from `v_initial`; adds up what it emits."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold, self.v_initial = threshold, threshold / 2

    def forward(self, x):
        self.v = self.v + x
        spikes = self.threshold * (self.v >= self.threshold).to(x.dtype)
        self.v, self.total = self.v - spikes, self.total + spikes
        return spikes


def simulate(network: nn.Module, images: torch.Tensor, timesteps: int) -> torch.Tensor:
    for module in network.modules():
        if isinstance(module, Literal):
            module.v, module.total = module.v_initial, 0
    return torch.stack([network(images) for _ in range(timesteps)])


@torch.no_grad()
def literally(ann, thresholds: dict[str, float], batches, timesteps: int) -> nn.Module:
    """A whole run of the network for every site, in the order of the layers; then the site gets what it missed."""
    images, network, activations = torch.cat([images for images, _ in batches]), copy.deepcopy(ann), {}
    for path, threshold in thresholds.items():
        hook = lambda m, i, o, path=path: activations.update({path: o.clone()})  # noqa: E731
        handle = ann.get_submodule(path).register_forward_hook(hook)
        ann(images)
        handle.remove()
        parent, _, leaf = path.rpartition(".")
        setattr(network.get_submodule(parent), leaf, Literal(threshold))
    for path, threshold in thresholds.items():
        simulate(network, images, timesteps)
        site = network.get_submodule(path)
        missing = activations[path].mean(0) - (site.total / timesteps).mean(0)
        site.v_initial = threshold / 2 + timesteps * missing
    return network


def known(snn: SpikingModel) -> dict[str, float]:
    return {path.removesuffix(".neuron"): neuron.threshold for path, neuron in snn.neurons().items()}


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("activation", [QUANTIZED, ReLU])
@pytest.mark.parametrize(("seed", "timesteps"), [(0, 4), (1, 1), (2, 8)])
def test_per_neuron_equals_the_literal_method(exact_network, exact_images, batches, kind, activation, seed, timesteps):
    ann, images = exact_network(kind, activation, seed=seed).double(), exact_images(3, seed=seed).double()
    power = lambda samples, levels: 2.0 ** largest(samples, levels).log2().floor()  # noqa: E731
    for setting in SCHEDULES:
        snn = convert(ann, batches, variant="per_neuron", rule=power, simulate=setting)
        thresholds = {path: known(snn)[path] for path, m in ann.named_modules() if isinstance(m, QCFS | nn.ReLU)}
        network = literally(ann, thresholds, batches, timesteps)
        same(snn(images, timesteps), simulate(network, images, timesteps).detach())
        for path, neuron in snn.neurons().items():
            site = network.get_submodule(path.removesuffix(".neuron"))
            same(neuron.node.v_initial * neuron.threshold, site.v_initial)


@pytest.mark.parametrize("activation", [QUANTIZED, ReLU])
def test_constant_is_half_the_threshold(exact_network, exact_images, batches, activation):
    ann, images = exact_network("residual", activation).double(), exact_images(4).double()
    snn = convert(ann, batches, rule=largest)
    network = copy.deepcopy(ann)
    for path, threshold in known(snn).items():
        parent, _, leaf = path.rpartition(".")
        setattr(network.get_submodule(parent), leaf, Literal(threshold))
    with torch.no_grad():
        torch.testing.assert_close(snn(images, 7), simulate(network, images, 7), rtol=0, atol=1e-12)
    assert snn.timing.anytime


def test_thresholds_are_trained_or_by_rule(exact_network, batches):
    ann = exact_network("residual").double()
    trained = {path: m.threshold.item() for path, m in ann.named_modules() if isinstance(m, QCFS)}
    assert known(convert(ann, [])) == trained  # looks at no image
    told = []
    rule = lambda samples, levels: told.append(levels) or largest(samples, levels)  # noqa: E731
    relu = exact_network("residual", ReLU).double()
    seen: dict[str, float] = {}
    probe = copy.deepcopy(relu)
    for path, module in probe.named_modules():
        if isinstance(module, nn.ReLU):
            hook = lambda m, i, o, path=path: seen.update({path: max(seen.get(path, 0.0), o.max().item())})  # noqa: E731
            module.register_forward_hook(hook)
    for images, _ in batches:
        probe(images)
    assert known(convert(relu, batches, rule=rule, levels=5)) == seen
    assert told == [5, 5, 5]


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_what_is_missing_is_made_up_for(exact_network, exact_images, seed):
    """On the calibration images the mean logits come nearer to the ANN's."""
    ann, images = exact_network("residual", ReLU, seed=seed).double(), exact_images(64).double()
    errors = {}
    for variant in ("constant", "per_neuron"):
        snn = convert(ann, [(images, torch.zeros(64))], variant=variant, rule=largest)
        errors[variant] = (snn(images, 16).mean(0) - ann(images)).mean(0).abs().sum().item()
    assert errors["per_neuron"] < errors["constant"] / 2


def test_each_t_is_calibrated_by_itself(exact_network, exact_images, batches):
    images = exact_images(3).double()
    snn = convert(exact_network("residual").double(), batches, variant="per_neuron")
    assert not snn.timing.anytime
    short, long = snn(images, 3), snn(images, 6)
    assert long[:3].ne(short).any()
    same(snn(images, 3), short)


def test_the_ann_may_change_afterwards(exact_network, exact_images, batches):
    ann, images = exact_network("residual").double(), exact_images(3).double()
    expected = convert(copy.deepcopy(ann), batches, variant="per_neuron")(images, 4)
    snn = convert(ann, batches, variant="per_neuron")
    for weight in ann.parameters():
        weight.data.zero_()
    same(snn(images, 4), expected)


def test_only_the_first_images_are_looked_at(exact_network, exact_images, batches):
    ann, images = exact_network("residual").double(), exact_images(3).double()
    few = convert(ann, batches, variant="per_neuron", images=4)(images, 4)
    same(few, convert(ann, batches[:1], variant="per_neuron", images=100)(images, 4))
    assert few.ne(convert(ann, batches, variant="per_neuron", images=5)(images, 4)).any()


@pytest.mark.parametrize(
    ("activation", "settings", "data", "message"),
    [
        (QUANTIZED, {"variant": "random"}, True, r"method\.variant='random': constant .* or per_neuron"),
        (QUANTIZED, {"variant": "per_neuron"}, False, r"none; set data\.calibration"),
        (QUANTIZED, {"variant": "per_neuron", "images": 0}, True, r"method\.images=0"),
        (ReLU, {}, True, r"2: has no threshold.*method\.rule"),
        (ReLU, {"rule": largest}, False, r"2: there are no calibration images.*data\.calibration"),
        (nn.Tanh, {}, True, "has no QCFS or ReLU"),
    ],
)
def test_bad_input(exact_network, batches, activation, settings, data, message):
    with pytest.raises(ValueError, match=message):
        convert(exact_network(activation=activation).double(), batches if data else [], **settings)
