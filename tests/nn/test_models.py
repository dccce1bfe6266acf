"""Models: every yaml builds on every image size, with a threshold of its own at every site."""

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from snnconv.conversion.methods.qcfs import convert
from snnconv.conversion.obstacles import obstacles
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.nn.models.mlp import mlp
from snnconv.nn.models.resnet import Block, resnet18, resnet20
from snnconv.nn.models.vgg import vgg16
from snnconv.spiking.latency import latency_class
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

SHAPES = {"digits": (1, 8, 8), "cifar": (3, 32, 32)}

# with layers that only a captured network can have: test_models_foreign.py
CAPTURED = ("timm", "torchvision", "vit_tiny", "cct", "resnet20_max_pool")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_model_builds_and_forwards(compose_config, any_model, shape):
    cfg = compose_config(
        f"model={any_model}", f"data.input_shape={list(shape)}", "data.num_classes=7", "activation.threshold=1.0"
    )
    if any_model == "timm":
        pytest.importorskip("timm")
    ann = instantiate(cfg.model)  # in training mode, where batch norm keeps an untrained network awake
    with torch.no_grad():
        logits = ann(torch.randn(4, *shape))
    assert logits.shape == ((4, 7, *shape[1:]) if any_model == "unet" else (4, 7))
    assert logits.isfinite().all()
    assert logits[0].ne(logits[1]).any()  # says something about the image
    sites = [module for module in ann.modules() if isinstance(module, QCFS)]
    assert len({id(site.theta) for site in sites}) == len(sites) > 0
    if any_model not in CAPTURED:
        assert obstacles(ann, QCFS) == []


def sites(network: nn.Module) -> int:
    return sum(isinstance(module, QCFS) for module in network.modules())


def count(network: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


def make_qcfs() -> QCFS:
    return QCFS(4)


def test_vgg16_is_the_papers():
    network = vgg16(10, (3, 32, 32), make_qcfs)
    assert [m.out_features for m in network.modules() if isinstance(m, nn.Linear)] == [4096, 4096, 10]
    assert (count(network, nn.Conv2d), count(network, nn.AvgPool2d), sites(network)) == (13, 5, 15)


def test_vgg_leaves_out_pooling_that_would_leave_nothing():
    network = vgg16(10, (1, 8, 8), make_qcfs)
    assert count(network, nn.AvgPool2d) == 3  # 8 → 4 → 2 → 1


def test_resnet20_is_the_papers():
    """19 convolutions and a linear layer, two 1×1 shortcuts, widths 16-32-64: 0.27 million weights."""
    network = resnet20(10, (3, 32, 32), make_qcfs)
    assert (count(network, nn.Conv2d), count(network, nn.Linear), sites(network)) == (19 + 2, 1, 19)
    assert sum(p.numel() for p in network.parameters() if p.dim() > 1) == 270_896
    assert network.stages(torch.zeros(1, 16, 32, 32)).shape == (1, 64, 8, 8)


def test_a_block_adds_its_shortcut_before_the_activation():
    block = Block(4, 4, 1, nn.ReLU).eval()
    x = torch.randn(2, 4, 5, 5)
    expected = (block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())) + x).relu()
    torch.testing.assert_close(block(x), expected)


def test_vgg16_at_224_is_as_large_as_torchvisions():
    with torch.device("meta"):
        network = vgg16(1000, (3, 224, 224), make_qcfs)
    linear = [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]
    assert linear == [(512 * 7 * 7, 4096), (4096, 4096), (4096, 1000)]


def test_the_imagenet_stem_pools_before_the_first_neuron():
    """This equals the order in torchvision for any monotone activation, and can be converted."""
    network = resnet18(5, (3, 32, 32), lambda: QCFS(4, 1.0), stem="imagenet").eval()
    network.act1.set_threshold(0.5)
    images = torch.randn(1, 3, 32, 32)
    current = network.bn1(network.conv1(images))
    pooled = network.act1(network.maxpool(current))
    assert pooled.shape == (1, 64, 8, 8)
    assert torch.equal(pooled, network.maxpool(network.act1(current)))
    assert len(pooled.unique()) == 5
    logits = convert(network, [], neuron=IntegrateFire)(images, timesteps=2)
    assert logits.shape == (2, 1, 5)
    assert logits.isfinite().all()


def test_an_unknown_stem_is_told():
    with pytest.raises(ValueError, match=r"model.stem=large: must be small or imagenet"):
        resnet18(5, (3, 32, 32), ReLU, stem="large")
    with pytest.raises(ValueError, match=r"model.downsampling=avg: must be stride or max_pool"):
        resnet18(5, (3, 32, 32), ReLU, downsampling="avg")


def test_max_pooling_instead_of_strides():
    """The network is halved at the same places, and stays in the plain class."""
    network = resnet20(5, (3, 16, 16), lambda: QCFS(4, 1.0), downsampling="max_pool").eval()
    assert all(module.stride == (1, 1) for module in network.modules() if isinstance(module, nn.Conv2d))
    images, shapes = torch.randn(2, 3, 16, 16), []
    for stage in network.stages:
        stage.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape)))
    network(images)
    assert shapes == [(2, 16, 16, 16), (2, 32, 8, 8), (2, 64, 4, 4)]
    latency = convert(network, [images], neuron=IntegrateFire).latency
    assert latency_class(latency.as_dict()) == "plain"


def test_mlp_has_the_widths_it_is_told():
    network = mlp(3, (1, 2, 2), make_qcfs, hidden=(5, 6))
    assert [(m.in_features, m.out_features) for m in network if isinstance(m, nn.Linear)] == [(4, 5), (5, 6), (6, 3)]
