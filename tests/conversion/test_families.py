"""The laws of conversion on the families of 23 classification networks of torchvision, in float64, on small images.

Weights are random, layers and channels as few as a family allows: errors of an untrained network grow from layer to layer, so a
deep one would need more timesteps than a test can take before its error falls as 1/T.  experiments/any_network has the networks
in full.
"""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.vgg import make_layers

from snnconv.conversion.registry import convert
from snnconv.nn.graph.capture import capture
from snnconv.spiking.tasks import running_mean

VGG = [8, "M", 16, "M", 16, 16, "M", 32, 32, "M", 32, 32, "M"]
INVERTED = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]
B0 = [
    MBConvConfig(1, 3, 1, 16, 16, 1, 1.0, 1.0),
    MBConvConfig(6, 3, 2, 16, 24, 1, 1.0, 1.0),
    MBConvConfig(6, 5, 2, 24, 40, 1, 1.0, 1.0),
]
V2 = [FusedMBConvConfig(1, 3, 1, 8, 8, 1), FusedMBConvConfig(4, 3, 2, 8, 16, 1), MBConvConfig(4, 3, 2, 16, 24, 1)]
REGNET = partial(BlockParams.from_init_params, depth=6, w_0=24, w_a=24.48, w_m=2.54, group_width=8)
NEXT = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, 64, 1), CNBlockConfig(64, None, 1)]
SWIN = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}
V2_BLOCKS = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}


def with_head(network, features):
    """`network` with a small classifier in the place of one of millions of weights."""
    network.classifier = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 10))
    return network


def without(inception, *blocks):
    """`inception` without those of its blocks, which put out as many channels as they take."""
    for block in blocks:
        setattr(inception, f"Mixed_{block}", nn.Identity())
    return inception


FAMILIES = {
    "alexnet": lambda: with_head(models.alexnet(), 256 * 36),
    "vgg11_bn": lambda: with_head(models.VGG(make_layers(VGG, batch_norm=True)), 32 * 49),
    "resnet18": lambda: models.ResNet(BasicBlock, [1, 1, 1, 1], 10),
    "resnet50": lambda: models.ResNet(Bottleneck, [1, 1, 1, 1], 10, width_per_group=16),
    "resnext50_32x4d": lambda: models.ResNet(Bottleneck, [1, 1, 1, 1], 10, groups=8, width_per_group=4),
    "wide_resnet50_2": lambda: models.ResNet(Bottleneck, [1, 1, 1, 1], 10, width_per_group=32),
    "densenet121": lambda: models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10),
    "squeezenet1_1": lambda: models.squeezenet1_1(num_classes=10),
    "googlenet": lambda: models.googlenet(num_classes=10, aux_logits=False, init_weights=True),
    "inception_v3": lambda: without(
        models.inception_v3(num_classes=10, aux_logits=False, init_weights=True), "5d", "6c", "6d", "6e", "7c"
    ),
    "mobilenet_v2": lambda: models.MobileNetV2(10, 0.5, INVERTED),
    "mobilenet_v3_small": lambda: models.mobilenet_v3_small(num_classes=10, width_mult=0.25),
    "efficientnet_b0": lambda: models.EfficientNet(B0, 0.0, num_classes=10, last_channel=64),
    "efficientnet_v2_s": lambda: models.EfficientNet(V2, 0.0, num_classes=10, last_channel=64),
    "mnasnet0_5": lambda: models.mnasnet0_5(num_classes=10),
    "regnet_x_400mf": lambda: models.RegNet(REGNET(), 10),
    "regnet_y_400mf": lambda: models.RegNet(REGNET(se_ratio=0.25), 10),
    "shufflenet_v2_x0_5": lambda: models.ShuffleNetV2([2, 2, 2], [24, 48, 96, 192, 128], 10),
    "convnext_tiny": lambda: models.ConvNeXt(NEXT, layer_scale=0.5, num_classes=10),
    "vit_b_16": lambda: models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10),
    "swin_t": lambda: models.SwinTransformer(**SWIN, num_classes=10),
    "swin_v2_t": lambda: models.SwinTransformer(**SWIN, **V2_BLOCKS, num_classes=10),
    "maxvit_t": lambda: models.MaxVit((32, 32), 8, 4, [8, 16], [1, 1], 4, 0.0, num_classes=10),
}
LIMIT = 0.3
SIZES = {"alexnet": 64, "inception_v3": 75}  # the smallest images; others: 32


def build(name):
    """The network with statistics of its own images, no head of zeros, and 2 of the images."""
    size, network = SIZES.get(name, 32), FAMILIES[name]()
    images = torch.randn(8, 3, size, size)
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(getattr(module, "p", None), float):  # dropout and stochastic depth
            module.p = 0.0
    with torch.no_grad():
        network.train()(images)
    return network.eval().double(), images[:2].double()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_of_torchvision_obeys_the_laws(name):
    """The error falls as 1/T; schedules agree; an image alone gives the same; the network stays as it was.

    With θ at the largest activation nothing is clipped, and what is left at T is a bounded sum, divided by T: eight times the
    steps leave an eighth (0.125) of the error, here averaged over the last quarter of the steps, since the sums vary.
    """
    network, images = build(name)
    before = copy.deepcopy(network.state_dict())
    graph = capture(network, images)
    snn = convert(graph, images, method="differential", rule="max", simulation={"schedule": "step"})
    logits = snn(images, 256)
    with torch.no_grad():
        target = network(images)
    distance = (running_mean(logits) - target).norm(dim=(1, 2)) / target.norm()
    assert distance[192:].mean() < LIMIT * distance[24:32].mean(), distance[[7, 15, 31, 63, 127, 255]]
    assert not snn.latency.analog_currents
    layerwise = convert(graph, images, method="differential", rule="max", simulation={"schedule": "layer", "chunk": 2})
    torch.testing.assert_close(layerwise(images, 3), logits[:3], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(snn(images[1:], 3), logits[:3, 1:], rtol=1e-8, atol=1e-8)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "operators"), [("squeezenet1_1", 0), ("resnet18", 0), ("mobilenet_v3_small", 36), ("regnet_y_400mf", 12)]
)
def test_binary_neurons_obey_the_law(name, operators):
    """Integrate-and-fire neurons in the places of the ReLUs; sums vary more than those of levels, so the limit is wider.

    The operators of MobileNet are 18 hard-swish, and 9 gates of a hard-sigmoid and a product; those of RegNet-Y gates.
    """
    network, images = build(name)
    snn = convert(capture(network, images), images, method="max_norm", simulation={"schedule": "step"})
    with torch.no_grad():
        distance = (running_mean(snn(images[:1], 512)) - network(images[:1])).norm(dim=(1, 2))
    assert distance[384:].mean() < 0.5 * distance[48:64].mean()
    assert snn.latency.float_operators == operators
