"""The check: every layer and what becomes of it, every obstacle with its path and a remedy, and nothing that is none."""

import logging
from functools import partial

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torch.nn import functional as F

from snnconv.conversion.checks import check
from snnconv.conversion.method import takes
from snnconv.conversion.methods import finetune, qcfs, threshold
from snnconv.conversion.rules import largest
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.relus import replace_relus
from snnconv.runtime.configurations import options
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

DIRECT = partial(qcfs.convert, neuron=IntegrateFire)
FROM_RELU = partial(threshold.convert, neuron=IntegrateFire, rule=largest)


def noise(*shape: int):
    return [(torch.randn(4, *shape), torch.zeros(4))]


class Net(nn.Module):
    """conv1 → act1 → body → pool → fc, where `body` and `forward` are what a test breaks."""

    def __init__(self, body: nn.Module | None = None, activation=lambda: QCFS(4, 1.0)) -> None:
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(1, 4, 3, padding=1), activation()
        self.body = body or nn.Identity()
        self.conv2, self.act2 = nn.Conv2d(4, 4, 3, padding=1), activation()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

    def forward(self, x):
        x = self.act2(self.conv2(self.body(self.act1(self.conv1(x)))))
        return self.fc(self.pool(x).flatten(1))


class FunctionalReLU(nn.Module):
    def forward(self, x):
        return F.relu(x)


class Shared(Net):
    def forward(self, x):
        x = self.act1(self.conv2(self.act1(self.conv1(x))))
        return self.fc(self.pool(x).flatten(1))


class Bare(QCFS):
    """A threshold without a floor, as a user might write it."""

    @property
    def threshold(self):
        return self.theta


def with_threshold(value: float, kind: type[QCFS] = QCFS) -> Net:
    network = Net(activation=lambda: kind(4, 1.0))
    network.act2.theta.data.fill_(value)
    return network


BROKEN = {
    "functional ReLU": (lambda: Net(FunctionalReLU()), "body (ReLU): cannot be converted to spikes", "replace it by QCFS"),
    "batch norm by batch": (
        lambda: Net(nn.BatchNorm2d(4, track_running_stats=False)),
        "body (BatchNorm2d): uses batch statistics, which differ in every timestep",
        "use track_running_stats=True",
    ),
    "θ < 0": (lambda: with_threshold(-1.0, Bare), "act2 (Bare): θ = -1, L = 4", "must be a positive number; train again"),
    "θ = 0": (lambda: with_threshold(0.0, Bare), "act2 (Bare): θ = 0, L = 4", "train again"),
    "θ infinite": (lambda: with_threshold(float("inf"), Bare), "act2 (Bare): θ = inf", "train again"),
    "θ unknown": (lambda: with_threshold(float("nan")), "act2 (QCFS): θ = nan", "calibration then computes θ"),
    "unsupported layer": (lambda: Net(nn.ReLU()), "body (ReLU): cannot be converted", "replace it by QCFS or a linear layer"),
    "another size": (
        lambda: Net(nn.Conv2d(5, 4, 1)),
        "body (Conv2d): fails on images of 1×8×8",
        "does data.input_shape match the network",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message", "remedy"), BROKEN.values(), ids=BROKEN)
def test_each_obstacle_is_named_with_its_path_and_a_remedy(make, message, remedy):
    found = check(make(), DIRECT, noise(1, 8, 8))
    (text,) = map(str, found.obstacles)
    assert text.startswith(message)
    assert remedy in text
    marked = {f"{layer.path} ({layer.name})" for layer in found.layers if layer.becomes == "obstacle 1"}
    assert marked == {text.partition(":")[0].partition(" fails")[0]}
    with pytest.raises(ValueError, match="cannot be converted:\n  ") as error:
        found.require()
    assert text in str(error.value)


@pytest.mark.parametrize(("make", "message", "remedy"), BROKEN.values(), ids=BROKEN)
def test_what_is_refused_is_what_conversion_refuses(make, message, remedy):
    """The check is no second opinion: conversion, followed by a first image, fails too."""
    with pytest.raises((ValueError, RuntimeError)):
        DIRECT(make(), [])(torch.randn(2, 1, 8, 8), 2)


def test_a_module_that_is_called_at_several_places_is_several_sites():
    for network in (Shared(), Net(nn.Sequential(pool := nn.MaxPool2d(2), pool))):
        found = check(network, DIRECT, noise(1, 8, 8))
        assert found.obstacles == []
        snn = DIRECT(network, noise(1, 8, 8))
        assert snn(torch.randn(2, 1, 8, 8), 2).shape == (2, 2, 3)
        assert len(snn.neurons()) == 2


def test_all_obstacles_are_told_at_once():
    network = Net(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()))
    found = check(network, DIRECT, noise(1, 8, 8))
    assert [obstacle.path for obstacle in found.obstacles] == ["body.0", "body.1", "body.2"]
    assert {layer.path: layer.becomes for layer in found.layers}["body.2"] == "obstacle 3"


def test_a_forward_pass_that_cannot_be_followed():
    class Branching(Net):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    found = check(Branching(), DIRECT, noise(1, 8, 8))
    assert len(found.obstacles) == 1
    assert str(found.obstacles[0]).startswith("Branching: the forward pass cannot be captured: it branches on values")
    assert found.layers == []


# nothing to convert, and which methods would


def test_nothing_to_convert_names_the_methods_that_would():
    found = check(Net(activation=nn.ReLU), DIRECT, noise(1, 8, 8))
    assert len(found.obstacles) == 1
    assert "Net has no QCFS: nothing to convert; its activations are ReLU" in str(found.obstacles[0])
    assert {"max_norm", "mse", "threshold_balancing", "burst"} < set(found.methods)
    assert not {"qcfs", "srp", "cos"} & set(found.methods)
    assert "it can be converted by method=" in found.advice()
    found = check(Net(), FROM_RELU, noise(1, 8, 8))
    assert "has no ReLU: nothing to convert" in str(found.obstacles[0])
    assert {"qcfs", "srp", "layer_calibration_advanced"} < set(found.methods)
    assert "max_norm" not in found.methods


def test_no_method_is_named_where_none_would_take_it():
    found = check(Net(nn.MaxPool2d(2)), DIRECT, noise(1, 8, 8))
    assert (found.methods, found.advice()) == ([], "")


def test_the_methods_that_are_named_convert(compose_config, any_method):
    """Recommended methods convert the network, and the others do not."""
    for activation in (nn.ReLU, lambda: QCFS(4, 1.0)):
        network = Net(activation=activation)
        named = any_method in check(network, FROM_RELU if activation is not nn.ReLU else DIRECT, noise(1, 8, 8)).methods
        method = instantiate(compose_config(f"method={any_method}", "timesteps=2").method)
        found = check(network, method, noise(1, 8, 8))
        assert (found.obstacles == []) == (named or (any_method == "finetune" and activation is not nn.ReLU)), found


def test_a_method_takes_what_its_base_takes():
    base = {"_target_": "snnconv.conversion.methods.threshold.convert", "_partial_": True}
    assert takes(partial(finetune.convert, base=base)) == (nn.ReLU,)
    assert takes(partial(finetune.convert, base=DIRECT)) == (QCFS,)
    assert takes(lambda ann, batches: None) is None


def test_a_method_that_does_not_say_what_it_takes_decides_by_itself():
    def convert(ann, batches):
        raise ValueError("not today")

    found = check(Net(nn.MaxPool2d(2)), convert, noise(1, 8, 8))
    assert [*map(str, found.obstacles)] == ["not today"]
    assert {layer.path: layer.becomes for layer in found.layers}["body"] == "left to the method"


# healthy networks


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_a_healthy_network_passes(kind, exact_network, exact_images):
    batches = [(exact_images(8), torch.zeros(8))]
    for activation, method in ((lambda: QCFS(4, 8.0), DIRECT), (nn.ReLU, FROM_RELU)):
        network = exact_network(kind, activation)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        found = check(network, method, batches)
        found.require()
        assert (found.obstacles, found.warnings, found.methods) == ([], [], [])
        assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_every_layer_is_told_with_what_becomes_of_it(exact_network):
    found = check(exact_network("plain"), DIRECT, noise(1, 4, 4))
    theta = [f"{exact_network('plain')[site].threshold.item():.4g}" for site in (2, 7)]
    assert [(layer.path, layer.name, layer.shape, layer.parameters, layer.becomes) for layer in found.layers] == [
        ("0", "Conv2d", (4, 4, 4), 40, "weights, applied to the image (computed once, analog)"),
        ("1", "BatchNorm2d", (4, 4, 4), 8, "folded into 0"),
        ("2", "QCFS", (4, 4, 4), 1, f"IntegrateFire neuron, θ = {theta[0]}, L = 4"),
        ("3", "AvgPool2d", (4, 2, 2), 0, "unchanged, applied in every step"),
        ("4", "Flatten", (16,), 0, "unchanged, applied in every step"),
        ("5", "Linear", (8,), 136, "weights, applied to spikes"),
        ("6", "BatchNorm1d", (8,), 16, "folded into 5"),
        ("7", "QCFS", (8,), 1, f"IntegrateFire neuron, θ = {theta[1]}, L = 4"),
        ("8", "Dropout", (8,), 0, "unchanged, applied in every step"),
        ("9", "Linear", (3,), 27, "weights, applied to spikes"),
    ]


def test_what_an_operator_does_is_told(exact_network):
    """By name of the layer that it stands for; after which weights receive analog values."""
    network = nn.Sequential(
        nn.Conv2d(1, 4, 1),
        QCFS(4, 8.0),
        nn.Conv2d(4, 4, 1),
        QCFS(4, 8.0),
        nn.MaxPool2d(2),
        nn.GELU(),
        nn.Conv2d(4, 4, 1),
    )
    found = check(network, DIRECT, noise(1, 8, 8))
    becomes = {layer.path: (layer.name, layer.becomes) for layer in found.layers}
    assert not found.obstacles
    assert becomes["4"] == ("MaxPool2d", "max pooling of spike counts, binary for spikes")
    assert becomes["5"] == ("GELU", "running mean, floating point in every step")


def test_the_neuron_is_the_methods_own(compose_config, exact_network):
    for name, neuron in {"burst": "Burst", "signed": "Signed", "srp": "ResidualPotential"}.items():
        found = check(exact_network("plain"), instantiate(compose_config(f"method={name}").method), noise(1, 4, 4))
        assert found.layers[2].becomes.startswith(f"{neuron} neuron, θ = ")


def test_a_layer_that_is_never_called_is_told():
    network = Net()
    network.forgotten = nn.Linear(4, 4)
    found = check(network, DIRECT, noise(1, 8, 8))
    assert found.obstacles == []
    assert found.layers[-1].path == "forgotten"
    assert found.layers[-1].becomes == "never called"


DEEP = {"vgg13", "vgg16", "vgg19", "resnet34", "resnet34_imagenet"}  # more of the layers that the smaller ones have
MODELS = [pytest.param(name, marks=pytest.mark.long if name in DEEP else ()) for name in options("model")]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("activation", "method"), [("qcfs", "qcfs"), pytest.param("relu", "mse", marks=pytest.mark.long)]
)
def test_every_model_is_convertible(name, activation, method, compose_config):
    """With nothing to warn of, untrained as it is."""
    if name == "timm":
        pytest.importorskip("timm")
    cfg = compose_config(f"model={name}", f"activation={activation}", f"method={method}", "data.input_shape=[3,32,32]")
    found = check(instantiate(cfg.model), instantiate(cfg.method), noise(3, 32, 32))
    assert (found.obstacles, found.warnings) == ([], [])


def test_without_images_the_layers_are_told_without_shapes():
    found = check(Net(), DIRECT, [])
    assert found.obstacles == []
    assert {layer.shape for layer in found.layers} == {None}


# thresholds that calibration will find, and warnings


def test_a_threshold_that_calibration_will_find_is_no_obstacle():
    network = with_threshold(float("nan"))
    network.conv2.weight.data *= 1e5  # far from the number that stands in for it
    found = check(network, DIRECT, noise(1, 8, 8), calibrates=True)
    assert (found.obstacles, found.warnings) == ([], [])
    becomes = {layer.path: layer.becomes for layer in found.layers}
    assert becomes["act1"] == "IntegrateFire neuron, θ = 1, L = 4"
    assert becomes["act2"] == "IntegrateFire neuron, θ from calibration images"
    assert network.act2.threshold.isnan()


ODD = {
    "at the floor": (lambda: with_threshold(0.0), "act2 (QCFS): θ = 0.001, L = 4, the smallest θ that is used"),
    "far above": (lambda: with_threshold(1e5), "act2 (QCFS): θ = 1e+05, L = 4, but its largest current is"),
    "far below": (
        lambda: replace_relus(big(Net(activation=nn.ReLU)), lambda: QCFS(4, 1.0)),
        "act2 (QCFS): θ = 1, L = 4, but its largest current is",
    ),
    "norm after pooling": (
        lambda: Net(nn.Sequential(nn.AvgPool2d(2), nn.BatchNorm2d(4))),
        "body.1 (BatchNorm2d): cannot be folded into a layer",
    ),
}  # fmt: skip


def big(network: Net) -> Net:
    network.conv2.weight.data *= 1e5
    return network


@pytest.mark.parametrize(("make", "message"), ODD.values(), ids=ODD)
def test_what_is_carried_and_nobody_wants_is_a_warning(make, message, caplog):
    found = check(make(), DIRECT, noise(1, 8, 8))
    (text,) = found.warnings
    assert text.startswith(message)
    assert ";" in text  # what would do
    assert found.obstacles == []
    with caplog.at_level(logging.WARNING):
        found.require()
    assert text in caplog.text


@pytest.mark.parametrize("factor", [1 / 900, 1 / 10, 10, 900])
def test_a_threshold_within_proportion_is_none(factor):
    """Proportion to the layer, not to 1: all currents here are 10⁴ times what they usually are."""
    network = Net(activation=lambda: QCFS(4, 1.0))
    network.conv1.weight.data *= 1e4
    network.conv1.bias.data *= 1e4
    ((images, _),) = noise(1, 8, 8)
    peaks = []
    network.act1.register_forward_hook(lambda site, inputs, output: peaks.append(inputs[0].abs().max().item()))
    network(images)
    network.act1.set_threshold(factor * peaks[0])
    network.act2.set_threshold(1e4)
    assert check(network, DIRECT, [(images, torch.zeros(4))]).warnings == []


def test_a_norm_before_the_first_spikes_is_no_warning():
    network = nn.Sequential(nn.BatchNorm2d(1), Net())
    found = check(network, DIRECT, noise(1, 8, 8))
    assert found.warnings == []
    assert found.layers[0].becomes == "weights, applied to the image (computed once, analog)"
