"""Quantized weights: on their grid after training, in training and after every method; floats left alone."""

import copy

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from snnconv.conversion.method import takes
from snnconv.conversion.methods import qcfs
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.quantization import quantize
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.training.loop import fit
from snnconv.training.quantized_weights import Weights
from snnconv.training.settings import Fit

BITS = [8, 4, 2]


@pytest.fixture
def ann(make_network):
    return make_network()


@pytest.fixture
def make_network():
    """make_network(act) → a trained-looking network [N, 1, 4, 4] → [N, 3] with batch norms."""

    def make(activation=lambda: QCFS(4, 1.0)) -> nn.Module:
        torch.manual_seed(3)
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), activation(), nn.Flatten(), nn.Linear(64, 8),
                  nn.BatchNorm1d(8), activation(), nn.Linear(8, 3)]  # fmt: skip
        network = nn.Sequential(*layers)
        for norm in (layers[1], layers[5]):
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(-1.5, 1.5)
        return network.eval()

    return make


def levels_used(weight: torch.Tensor, per_channel: bool) -> int:
    """The most different sizes of weights that share a scale."""
    rows = weight.flatten(1) if per_channel else weight.flatten().unsqueeze(0)
    return max(len(torch.unique((row / row.abs().max()).abs().mul(1e4).round())) for row in rows)


def test_other_bits_in_some_layers(ann, open_tiny_run, tiny_batches):
    """The first pattern that matches counts; training, conversion and evaluation keep the bits of each layer."""
    weights = Weights(bits=8, layers={"4": "binary", "[47]": 3})
    expected = {"0.weight": 8, "4.weight": "binary", "7.weight": 3}
    before = copy.deepcopy(ann.state_dict())
    for name, tensor in weights(ann).state_dict().items():
        values = quantize(before[name], expected[name]).values if name in expected else before[name]
        assert torch.equal(tensor, values), name
    with weights.trained(ann):
        assert all(
            torch.equal(ann.state_dict()[name], quantize(before[name], bits).values) for name, bits in expected.items()
        )
    fit(
        ann,
        tiny_batches(32, 8, shuffle=True),
        tiny_batches(20, 8),
        Fit(epochs=1, lr=0.05, batch_size=8),
        open_tiny_run(),
        weights,
    )
    assert levels_used(ann[4].weight, per_channel=True) == 1
    snn = weights.convert(lambda network, batches: qcfs.convert(network, batches, neuron=IntegrateFire), ann, [])
    assert levels_used(snn.network.get_submodule("4").weight, per_channel=True) == 1
    assert weights.facts() == {"bits": 8, "per_channel": True, "layers": {"4": "binary", "[47]": 3}}


def test_other_bits_that_cannot_be(ann):
    with pytest.raises(ValueError, match=r"weights.layers: no layer with weights matches conv\*; there are 0, 4, 7"):
        Weights(bits=8, layers={"conv*": 4})(ann)
    with (
        pytest.raises(ValueError, match=r"weights.layers: no layer with weights matches conv"),
        Weights(bits=8, layers={"conv*": 4}).trained(ann),
    ):
        pass
    with pytest.raises(ValueError, match=r"weights.layers: needs weights.bits"):
        Weights(layers={"0": 4})
    with pytest.raises(ValueError, match=r"bits=1: weights have 2"):
        Weights(bits=8, layers={"0": 1})


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_lie_on_their_grid(ann, bits, per_channel):
    before = copy.deepcopy(ann.state_dict())
    weights = Weights(bits=bits, per_channel=per_channel)
    other = weights(ann)
    for name, tensor in before.items():
        assert torch.equal(ann.state_dict()[name], tensor)  # the given network stays
        expected = quantize(tensor, bits, per_channel).values if name in LAYERS else tensor
        assert torch.equal(other.state_dict()[name], expected), name
    again = weights(other)
    for name in LAYERS:
        torch.testing.assert_close(again.state_dict()[name], other.state_dict()[name], rtol=1e-6, atol=0)


LAYERS = ("0.weight", "4.weight", "7.weight")


def test_floats_are_left_alone(ann):
    assert Weights()(ann) is ann
    before = ann[0].weight.data.clone()
    with Weights().trained(ann):
        assert torch.equal(ann[0].weight, before)


def test_trained_weights_are_quantized_inside_and_come_back(ann):
    before = ann[0].weight.data.clone()
    with Weights(bits=4).trained(ann):
        inside = ann[0].weight.data.clone()
    assert torch.equal(inside, quantize(before, 4).values)
    assert torch.equal(ann[0].weight, before)
    with pytest.raises(RuntimeError), Weights(bits=4).trained(ann):
        raise RuntimeError
    assert torch.equal(ann[0].weight, before)  # whatever happens
    with Weights(bits=4, train=False).trained(ann):
        assert torch.equal(ann[0].weight, before)


def test_gradient_goes_straight_through():
    """One step of SGD by hand: the gradient at the quantized weight moves the float."""
    layer, x = nn.Linear(3, 2, bias=False), torch.randn(5, 3)
    float_weight = layer.weight.data.clone()
    with Weights(bits=2).trained(layer):
        layer(x).square().sum().backward()
    used = quantize(float_weight, 2).values
    torch.testing.assert_close(layer.weight.grad, 2 * (x @ used.T).T @ x)


@pytest.mark.parametrize("bits", BITS)
def test_a_network_trained_with_quantized_weights_is_kept_so(open_tiny_run, tiny_batches, make_network, bits):
    ann, run = make_network(), open_tiny_run()
    settings = Fit(epochs=2, lr=0.05, batch_size=8)
    fit(ann, tiny_batches(32, 8, shuffle=True), tiny_batches(20, 8), settings, run, Weights(bits=bits))
    for name in LAYERS:
        weight = ann.state_dict()[name]
        assert levels_used(weight, per_channel=True) <= 2 ** (bits - 1)
        torch.testing.assert_close(quantize(weight, bits).values, weight, rtol=1e-6, atol=0)


QUICK = {
    "finetune": [
        "method.epochs=1",
        "method.timesteps=2",
        "fit.batch_size=8",
        "data=synthetic",
        "data.train=16",
        "data.input_shape=[1,4,4]",
        "data.num_classes=3",
        "data.mean=[0.5]",
        "data.std=[0.25]",
        "data.valid=0",
        "data.calibration=8",
        "data.test=3",
        "device=cpu",
    ],
    "layer_calibration_advanced": ["method.epochs=1"],
}


def test_every_method_takes_them(compose_config, any_relu_method, make_network, exact_images):
    """The weights of a spiking network equal those of the quantized network, or are on a grid of their own."""
    cfg = compose_config(f"method={any_relu_method}", "weights=int4", "levels=4", *QUICK.get(any_relu_method, []))
    method, weights = instantiate(cfg.method), instantiate(cfg.weights)
    ann = make_network((lambda: QCFS(4, 1.0)) if QCFS in takes(method) else nn.ReLU)
    images = [(exact_images(512, seed), torch.arange(512) % 3) for seed in range(2)]
    snn = weights.convert(method, ann, images)
    snn.prepare(4)
    folded = fold_batchnorm(weights(ann))
    for path, layer in folded.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            own = (snn.exact or snn).network.get_submodule(path).weight
            factor = (own.double() * layer.weight.double()).sum() / layer.weight.double().square().sum()
            same = torch.allclose(own.double(), factor * layer.weight.double(), rtol=1e-4, atol=1e-6)
            assert same or levels_used(own.detach(), per_channel=True) <= 8, path


def test_methods_that_change_weights_are_quantized_again(make_network, exact_images):
    def method(ann, batches):
        snn = qcfs.convert(ann, batches, neuron=IntegrateFire)
        with torch.no_grad():
            snn.network.get_submodule("4").weight.add_(0.01 * torch.randn(8, 64))
        return snn

    snn = Weights(bits=4).convert(method, make_network(), [])
    weight = snn.network.get_submodule("4").weight
    assert levels_used(weight.detach(), per_channel=True) <= 8


@pytest.mark.parametrize("bits", [1, 17, 8.0, True])
def test_bits_that_there_are_not(bits, unchecked):
    with pytest.raises(ValueError, match=r"2 \(ternary\) to 16"):
        Weights(bits=bits)
