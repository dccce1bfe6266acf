"""Every conversion method, today's and tomorrow's, keeps the same promises; then each method's own tests.

A method is tried with every kind of activation; it may refuse one that is not its own, but not all of them.
"""

import copy
import json

import pytest
import torch
from hydra.utils import instantiate
from spikingjelly.activation_based import base
from torch import nn

from networks import TRAINING
from snnconv.analysis.errors import decompose
from snnconv.analysis.layer_errors import PARTS
from snnconv.conversion.method import rehearse, takes
from snnconv.conversion.methods.qcfs import convert
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.tasks import running_mean

T = 6


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture
def make_ann(compose_config, exact_network):
    """make_ann(activation, kind) → a tiny trained network in float64, where rounding never decides about a spike."""

    def make(activation: str, kind: str = "residual") -> nn.Module:
        cfg = compose_config(f"activation={activation}", "levels=4")
        return exact_network(kind, instantiate(cfg.activation)).double()

    return make


@pytest.fixture
def images(exact_images):
    return exact_images(5).double()


@pytest.fixture
def batches(exact_images):
    """Calibration images, as a method gets them: enough for a percentile of 99.9."""
    return [(exact_images(64, seed).double(), torch.arange(64) % 3) for seed in (10, 11)]


@pytest.fixture
def method(compose_config, any_relu_method):
    return instantiate(compose_config(f"method={any_relu_method}", "timesteps=6", "levels=4", *TRAINING).method)


def refusal(method, network: nn.Module, batches) -> str | None:
    """Reason why `method` does not support `network`; None if it does."""
    try:
        rehearse(method, network, batches)
    except ValueError as error:
        return str(error)
    return None


BASES = ("qcfs", "relu")  # every other activation here is one of these, which is tested below


NETWORKS = [
    *(f"residual-{activation}" for activation in BASES),
    *(
        pytest.param(f"plain-{activation}", marks=pytest.mark.long) for activation in BASES
    ),  # has layers of the residual one
]


@pytest.fixture(params=NETWORKS)
def ann(request, make_ann, method, batches):
    """A network that the method takes."""
    kind, activation = request.param.split("-")
    network = make_ann(activation, kind)
    kinds = takes(method)
    if kinds and not any(isinstance(module, kinds) for module in network.modules()):
        pytest.skip(f"not its activation: {activation}")
    why = None if kinds else refusal(method, network, batches)
    if why:
        pytest.skip(f"not its activation: {why}")
    return network


CONVERTED: dict[str, SpikingModel] = {}


@pytest.fixture
def snn(request, method, ann, batches):
    """Spiking network of `ann`, converted once for all tests that do not change it."""
    key = str(sorted(request.node.callspec.params.items()))
    if key not in CONVERTED:
        CONVERTED[key] = method(ann, batches)
    return copy.deepcopy(CONVERTED[key])


def test_every_activation_is_one_of_the_bases(make_ann, any_activation):
    """Otherwise methods are to be tried with it too."""
    kinds = tuple(type(make_ann(activation)[2]) for activation in BASES)
    assert isinstance(make_ann(any_activation)[2], kinds)


def test_takes_some_activation(method, make_ann, batches):
    refusals = [refusal(method, make_ann(activation), batches) for activation in BASES]
    assert None in refusals, refusals


def test_gives_logits_of_every_step(snn, images):
    assert isinstance(snn, SpikingModel)
    logits = snn(images, T)
    assert logits.shape == (T, 5, 3)
    assert logits.isfinite().all()
    assert any(isinstance(module, base.MemoryModule) for module in snn.modules())


def test_its_errors_add_up(ann, snn, images):
    """To what the layers' outputs differ by; or the method has no mean current to ask about."""
    labels = torch.arange(5) % 3
    if snn.timing.presented is not None:
        pytest.skip("only the first steps receive the image")
    errors = decompose(ann, snn, [(images, labels)], [T])
    predicted = running_mean(snn(images, T), snn.latency.readout_from)[-1].argmax(-1)
    assert errors.snn[T] == pytest.approx((predicted == labels).double().mean().item())
    assert len(errors.layers) == len(snn.neurons())
    for layer in errors.layers:
        for figures in (layer.mean, layer.share):
            assert sum(figures[part] for part in PARTS) == pytest.approx(figures["total"], abs=1e-12)
        assert sum(layer.offset_spikes.values()) == pytest.approx(1)


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_ann_as_it_was(request, method, ann, batches, images, training):
    if training and "plain" in request.node.name:
        pytest.skip("the residual network has all that a plain one has")
    ann.train(training)
    before, text = copy.deepcopy(ann.state_dict()), repr(ann)
    wanted = [parameter.requires_grad for parameter in ann.parameters()]
    snn = method(ann, batches)
    snn(images, T)
    for parameter in snn.parameters():
        parameter.data.fill_(7)
    assert all(module.training == training for module in ann.modules())
    assert repr(ann) == text
    assert [parameter.requires_grad for parameter in ann.parameters()] == wanted
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in ann.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in ann.state_dict().items())


def test_gives_the_same_answer_twice(method, ann, snn, batches, images):
    first = snn(images, T)
    snn(images[:2] + 1, 3)
    same(snn(images, T), first)
    same(method(ann, batches)(images, T), first)


def test_gives_the_same_answer_when_the_batch_is_split(snn, images):
    whole = snn(images, T)
    parts = torch.cat([snn(part, T) for part in images.split(2)], dim=1)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


def test_tells_the_truth_about_anytime(snn, images):
    """`anytime`: a prefix of a long run is a short run."""
    if snn.timing.anytime:
        short = snn(images, T)  # first: a network for more steps would serve for fewer
        same(snn(images, 2 * T)[:T], short)
    else:
        images = torch.cat([images, -images, 4 * images])
        whole = snn(images, 2 * T)
        assert any(whole[:t].ne(snn(images, t)).any() for t in (T, 2, 1))  # few spikes: not every T shows it


def test_declares_its_latency(snn):
    latency = snn.latency
    assert latency.warmup >= 0
    assert latency.spike_levels >= 1
    assert latency.readout_from >= 1
    assert latency.needs_training in ("none", "activation", "weights")
    assert {type(latency.waits), type(latency.signed)} == {bool}
    assert json.loads(json.dumps(latency.as_dict())) == latency.as_dict()


def test_emits_no_more_than_it_declares(snn, images):
    """A neuron that has k levels emits at most k different values beside 0, and negative ones only if `signed`."""
    seen = []
    snn.prepare(T)

    def watch(node, inputs, output):
        steps = output if node.step_mode == "m" else output.unsqueeze(0)
        seen.append((node, steps.flatten(0, 1).flatten(1)))

    for module in snn.modules():
        if isinstance(module, base.MemoryModule):
            module.register_forward_hook(watch)
    snn(images, T)
    assert seen
    for node in {node for node, _ in seen}:
        steps = torch.cat([output for other, output in seen if other is node])
        values = max(len(column.unique()) for column in steps.T)
        assert values <= 1 + snn.latency.spike_levels * (1 + snn.latency.signed)
        assert snn.latency.signed or (steps >= 0).all()


class Centered(nn.Module):
    """Relates the images of a batch."""

    def forward(self, x):
        return x - x.mean(0)


def test_refuses_what_it_cannot_carry(method, ann, batches):
    """Nothing unsupported is skipped silently: the error names the path."""
    ann.add_module("7", nn.Sequential(Centered()))
    with pytest.raises(ValueError, match=r"7\.0"):
        method(ann, batches)


# QCFS


def test_qcfs_uses_the_learned_thresholds(exact_network):
    ann = exact_network("residual")
    ann[2].set_threshold(0.75)
    snn = convert(ann, [], neuron=IntegrateFire)
    learned = [module.threshold.item() for module in ann.modules() if isinstance(module, QCFS)]
    assert [neuron.threshold for neuron in snn.neurons().values()] == learned
    assert learned[0] == 0.75


def test_qcfs_first_layer_equals_the_ann_at_t_equal_l(exact_images):
    """With one hidden layer the mean logits at T = L are the ANN's; deeper, unevenness sets in."""
    ann = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), QCFS(4, 1.0), nn.Linear(8, 3))
    for weight in ann.parameters():
        if weight.dim():
            weight.data = torch.randint(-8, 9, weight.shape) / 8
    snn, images = convert(ann, [], neuron=IntegrateFire), exact_images()
    same(snn(images, 4).mean(0), ann(images).detach())


def test_qcfs_tends_to_the_clipped_network():
    """As T grows the SNN becomes the network of clip(x, 0, θ), the L → ∞ limit, whatever L was."""
    ann = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 32), QCFS(2, 1.0), nn.Linear(32, 32), QCFS(2, 1.0), nn.Linear(32, 3)
    )
    clipped = nn.Sequential(*(nn.Hardtanh(0, 1) if isinstance(layer, QCFS) else layer for layer in ann))
    images = torch.randn(20, 1, 4, 4)
    means = convert(ann, [], neuron=IntegrateFire, simulate={"schedule": "layer", "chunk": 64})(images, 512)
    with torch.no_grad():
        distance = [(means[:t].mean(0) - clipped(images)).abs().mean().item() for t in (8, 64, 512)]
    assert distance[0] > 3 * distance[1] > 9 * distance[2]
    assert distance[2] < 2e-3
