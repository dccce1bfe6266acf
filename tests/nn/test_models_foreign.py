"""Networks of torchvision and timm, and ViT: activations in the place of ReLUs, weights of other classes, training, conversion."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from snnconv.conversion.preparation import prepare
from snnconv.conversion.registry import convert
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.models.cct import CCT
from snnconv.nn.models.foreign import timm, torchvision
from snnconv.nn.models.vit import ViT
from snnconv.runtime.weight_files import read_weights
from snnconv.spiking.tasks import running_mean

SHAPE = (3, 32, 32)


def count(network):
    return sum(isinstance(module, QCFS) for module in network.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sites"), [("resnet18", 17), ("squeezenet1_1", 26), ("mobilenet_v2", 35), ("mobilenet_v3_small", 14)]
)
def test_every_relu_of_torchvision_is_an_activation(name, sites):
    """Shared ones, clipped ones, and those that a network calls as functions; weights keep their names."""
    import torchvision.models

    network = torchvision_network(name)
    assert count(network) == sites
    names = torchvision.models.get_model(name, num_classes=5).state_dict().keys()
    assert names <= network.state_dict().keys()
    network(torch.randn(4, *SHAPE)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def torchvision_network(name, shape=SHAPE, **more):
    return torchvision(name, 5, shape, lambda: QCFS(4, 1.0), **more)


def test_a_network_without_relu_stays_as_it_is():
    network = torchvision_network("convnext_tiny", shape=(1, 32, 32))
    assert type(network).__name__ == "ConvNeXt"
    assert network.features[0][0].in_channels == 1


@pytest.mark.slow
def test_batch_norm_and_dropout_of_a_captured_network_switch():
    network = torchvision_network("mobilenet_v2")
    assert network.training
    images = torch.randn(4, *SHAPE)
    before = network.get_submodule("features.0.1").running_mean.clone()
    assert not torch.equal(network(images), network(images))
    assert not torch.equal(network.get_submodule("features.0.1").running_mean, before)
    network.eval()
    assert torch.equal(network(images), network(images))


def test_weights_of_other_classes_get_a_new_head(tmp_path):
    import torchvision.models

    torch.manual_seed(1)
    full = torchvision.models.squeezenet1_1(num_classes=1000)
    torch.save(full.state_dict(), tmp_path / "full.pt")
    network = torchvision_network("squeezenet1_1", weights=str(tmp_path / "full.pt"))
    assert network.classifier[1].out_channels == 5
    assert torch.equal(network.features[0].weight, full.features[0].weight)
    assert all(m.threshold.isnan() for m in network.modules() if isinstance(m, QCFS))
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="does not fit"):
        torchvision_network("squeezenet1_1", weights=str(tmp_path / "other.pt"))
    assert "other" in read_weights(tmp_path / "other.pt")


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"torchvision has no such classification network; did you mean resnet18"):
        torchvision_network("resnet1")


@pytest.mark.slow
def test_prepare_captures_what_tracing_cannot_follow():
    """ReLU6 is no ReLU to symbolic tracing."""
    import torchvision.models

    model = torchvision.models.mobilenet_v2(num_classes=5)
    images = torch.randn(8, *SHAPE)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model(images)
    model.eval()
    text = repr(model)
    network = prepare(model, levels=4096, calibration=images)
    assert count(network) == 35
    assert repr(model) == text
    with torch.no_grad():
        assert (network(images) - model(images)).norm() < 0.5 * model(images).norm()
    assert convert(network, images).method == "qcfs"


TRANSFORMERS = {
    ViT: {"patch": 4, "width": 12, "depth": 1},
    CCT: {"width": 12, "depth": 1},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRANSFORMERS, ids=["vit", "cct"])
def test_transformers_are_differential_with_gelu_and_qcfs_without(kind):
    images, settings = torch.randn(60, 3, 8, 8), TRANSFORMERS[kind]
    gelu = kind(5, (3, 8, 8), nn.GELU, gelu=True, **settings).eval()
    snn = convert(gelu, images, rule="max")
    assert snn.method == "differential"
    assert not snn.latency.analog_currents
    with torch.no_grad():
        error = (running_mean(snn(images[:4], 128))[-1] - gelu(images[:4])).norm() / gelu(images[:4]).norm()
    assert error < 0.02
    trained = kind(5, (3, 8, 8), lambda: QCFS(4, 1.0), **settings)
    assert convert(copy.deepcopy(trained).eval(), images).method == "qcfs"
    with pytest.raises(ValueError, match=r"heads (have )?to divide the width"):
        kind(5, (3, 8, 8), nn.GELU, heads=5, **settings)


def test_patches_have_to_fill_the_image():
    with pytest.raises(ValueError, match="patches have to fill the image"):
        ViT(5, (3, 9, 9), nn.GELU)


@pytest.mark.parametrize(("convolutions", "norm"), [(2, False), (1, True)])
def test_weights_of_cct_by_hand(convolutions, norm):
    network = CCT(10, SHAPE, nn.GELU, convolutions=convolutions, norm=norm, gelu=True)
    tokens = (32 >> convolutions) ** 2
    channels = [3, *[64] * (convolutions - 1), 128]
    kernels = (
        sum(9 * a * b for a, b in pairwise(channels)) + 2 * norm * sum(channels[1:]) + (not norm) * sum(channels[1:])
    )
    block = 4 * 128 * 128 + 4 * 128 + 2 * 128 * 128 + 2 * 128 + 4 * 128  # attention, two linear layers, two norms
    assert sum(p.numel() for p in network.parameters()) == kernels + tokens * 128 + 2 * block + 256 + 129 + 1290
    assert network(torch.randn(2, *SHAPE)).shape == (2, 10)


@pytest.mark.slow
def test_timm_networks_fit_the_images():
    pytest.importorskip("timm")
    network = timm("resnet18", 5, (1, 32, 32), lambda: QCFS(4, 1.0))
    assert count(network) == 17
    assert network(torch.randn(2, 1, 32, 32)).shape == (2, 5)
    network = timm("deit_tiny_patch16_224", 5, SHAPE, nn.ReLU, arguments={"depth": 1}, fused_attn=False)
    assert network(torch.randn(2, *SHAPE)).shape == (2, 5)
    assert not network.blocks[0].attn.fused_attn
    with pytest.raises(ValueError, match="timm has no such network; did you mean"):
        timm("resnet1", 5, SHAPE, nn.ReLU)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ValueError, match=r"snnconv\[timm\]"):
        timm("resnet18", 5, SHAPE, nn.ReLU)
