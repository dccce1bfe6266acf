"""Compression: smaller networks that compute what their parts say, rebuilt from plain values, and kept sparse in training."""

import copy
import json

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from networks import Net
from snnconv.hardware.compression.channels import prune_channels
from snnconv.hardware.compression.low_rank import split_convolutions
from snnconv.hardware.compression.rebuild import changes, rebuilt, undone
from snnconv.hardware.compression.size import size
from snnconv.hardware.compression.sparsity import largest, sparsify
from snnconv.nn.activations.cs_qcfs import CSQCFS
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.models.resnet import resnet20
from snnconv.nn.models.vgg import vgg11
from snnconv.training.loop import fit
from snnconv.training.quantized_weights import Weights
from snnconv.training.settings import Fit


def vgg_like(activation=QCFS) -> nn.Sequential:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), activation(4, 2.0), nn.AvgPool2d(2)]
    second = [nn.Conv2d(8, 12, 3, 2, padding=1, bias=False), nn.BatchNorm2d(12), activation(4, 2.0), nn.Flatten()]
    layers = [*first, *second, nn.Linear(48, 16), activation(4, 2.0), nn.Linear(16, 5)]
    network = nn.Sequential(*layers)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
    return network.eval()


BATCHES = [(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(5)), torch.arange(4))]
IMAGES = BATCHES[0][0]


# channels


@pytest.mark.parametrize("activation", [QCFS, CSQCFS])
def test_what_is_pruned_is_what_zeros_would_leave(activation):
    """The smaller network equals the whole one whose smallest channels are 0 after their activation."""
    network = vgg_like(activation)
    network(IMAGES)
    for site in (module for module in network.modules() if isinstance(module, CSQCFS)):
        site.set_threshold(torch.rand(len(site.p)) + 0.5)
    smaller = prune_channels(network, BATCHES, ratio=0.25)
    assert [tuple(smaller[i].weight.shape[:2]) for i in (0, 4, 8, 10)] == [(6, 3), (9, 6), (12, 36), (5, 12)]
    kept = [row for row in range(8) if _holds(network[0].weight[row], smaller[0].weight)]
    masked = copy.deepcopy(network)
    middle = [row for row in range(12) if _holds(network[4].weight[row][kept], smaller[4].weight)]
    last = [row for row in range(16) if _holds(network[8].weight[row].view(12, 4)[middle].flatten(), smaller[8].weight)]
    assert (len(kept), len(middle), len(last)) == (6, 9, 12)
    for site, rows in ((2, kept), (6, middle), (9, last)):
        masked[site].register_forward_hook(lambda module, inputs, y, rows=rows: y * _ones(y, rows))
    torch.testing.assert_close(smaller(IMAGES), masked(IMAGES))


def _holds(row, rows) -> bool:
    return any(torch.equal(row.flatten(), other.flatten()) for other in rows)


def _ones(y, rows):
    mask = torch.zeros(y.shape[1])
    mask[rows] = 1
    return mask.view(1, -1, *[1] * (y.dim() - 2))


def test_the_smallest_channels_go():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), QCFS(4, 1.0), nn.Conv2d(4, 4, 3), QCFS(4, 8.0), nn.Flatten(), nn.Linear(64, 3)
    )
    with torch.no_grad():
        network[0].weight *= torch.tensor([1, 0.01, 1, 0.02]).view(4, 1, 1, 1)
        network[2].weight[:, [1, 3]] *= 0.01
    smaller = prune_channels(network.eval(), BATCHES, ratios={"0": 0.5}, ratio=0.0)
    assert torch.equal(smaller[0].weight, network[0].weight[[0, 2]])
    assert torch.equal(smaller[2].weight, network[2].weight[:, [0, 2]])


def test_shortcuts_are_kept_unless_told():
    torch.manual_seed(0)
    network = resnet20(10, (3, 16, 16), lambda: QCFS(4, 1.0)).eval()
    images = [(torch.randn(2, 3, 16, 16), torch.zeros(2))]
    inner = prune_channels(network, images, ratio=0.5)
    blocks = [module for module in inner.modules() if hasattr(module, "conv1") and hasattr(module, "conv2")]
    widths = [
        (block.conv1.out_channels, block.conv2.out_channels) for block in blocks if isinstance(block.conv1, nn.Conv2d)
    ]
    assert widths == [(8, 16)] * 3 + [(16, 32)] * 3 + [(32, 64)] * 3
    every = prune_channels(network, images, ratio=0.5, shortcuts=True)
    assert size(every)["parameters"] < 0.3 * size(network)["parameters"] < 0.8 * size(inner)["parameters"]
    assert every(images[0][0]).shape == (2, 10)


def test_what_is_padded_by_number_is_kept():
    """Option-A shortcuts: channels are padded with zeros, so those before and behind stay where they are."""
    from snnconv.nn.models.custom import custom

    network = custom("examples/akamaster_resnet.py", "resnet20", 10, (3, 16, 16), lambda: QCFS(4, 1.0)).eval()
    images = torch.randn(2, 3, 16, 16)
    smaller = prune_channels(network, [(images, torch.zeros(2))], ratio=0.5, shortcuts=True)
    assert smaller.conv1.out_channels == 16
    assert smaller.get_submodule("layer3.0.conv1").out_channels == 32
    assert smaller(images).shape == (2, 10)


@pytest.mark.parametrize(("settings", "message"), [
    ({"ratio": 1.0}, r"ratio=1.0: must be at least 0"), ({"ratios": {"4": -0.1}}, r"4=-0.1: must be at least 0"),
    ({"ratios": {"nowhere": 0.5}}, "nowhere: no prunable layer"), ({"multiple": 0}, "multiple=0"),
])  # fmt: skip
def test_pruning_out_of_range(settings, message, unchecked):
    with pytest.raises(ValueError, match=message):
        prune_channels(vgg_like(), BATCHES, **settings)


def test_pruning_needs_an_image():
    with pytest.raises(ValueError, match=r"data\.calibration"):
        prune_channels(vgg_like(), [])


# 2:4


@pytest.mark.parametrize("shape", [(3, 8), (2, 4, 3, 3), (5, 16, 1, 3)])
def test_two_of_four_by_hand(shape):
    weight = torch.randn(shape)
    mask = largest(weight, 2, 4)
    found = mask.numpy()
    for o, *place in np.ndindex(shape[0], *shape[2:]):
        for first in range(0, shape[1], 4):
            index = (o, slice(first, first + 4), *place)
            values = np.abs(weight.numpy()[index])
            assert sorted(np.flatnonzero(found[index])) == sorted(np.argsort(-values)[:2])


def test_sparse_networks_keep_the_rest():
    network = vgg_like()
    sparse = sparsify(network, [], except_for=["10"])
    assert torch.equal(sparse[0].weight, network[0].weight)  # three input channels
    assert torch.equal(sparse[10].weight, network[10].weight)
    for i in (4, 8):
        assert (sparse[i].weight != 0).float().mean() == 0.5
        assert torch.equal(sparse[i].weight[sparse[i].weight != 0], network[i].weight[sparse[i].weight != 0])
    assert size(sparse)["bits"] < size(network)["bits"]


def test_zeros_stay_in_training(open_tiny_run, tiny_batches):
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), QCFS(4, 1.0), nn.Linear(8, 2))
    ann = sparsify(ann, [])
    zeros = {name: p.detach() == 0 for name, p in ann.named_parameters() if p.dim() > 1}
    before = copy.deepcopy(ann)
    settings = Fit(epochs=2, lr=0.1, batch_size=8, keep_zeros=True)
    fit(ann, tiny_batches(32, 8, shuffle=True), tiny_batches(16, 8), settings, open_tiny_run())
    for name, zero in zeros.items():
        assert torch.equal(ann.get_parameter(name) == 0, zero)
        assert not torch.equal(ann.get_parameter(name), before.get_parameter(name))


@pytest.mark.parametrize("settings", [{"keep": 4}, {"keep": 0}, {"of": 2.5}, {"except_for": ["*"]}])
def test_sparsity_out_of_range(settings, unchecked):
    with pytest.raises(ValueError, match=r"keep=|no layer can be made sparse"):
        sparsify(vgg_like(), [], **settings)


# low rank


def test_halves_are_the_truncated_kernel():
    layer = nn.Conv2d(4, 40, (3, 3), stride=(2, 1), padding=(1, 0), bias=True)
    network = nn.Sequential(layer)
    split = split_convolutions(network, [], ranks={"0": 2})
    assert isinstance(split[0], nn.Sequential)
    x = torch.randn(2, 4, 9, 9)
    matrix = layer.weight.detach().double().permute(1, 2, 0, 3).reshape(12, 120)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    low = ((u[:, :2] * s[:2]) @ v[:2]).reshape(4, 3, 40, 3).permute(2, 0, 1, 3).float()
    expected = nn.functional.conv2d(x, low, layer.bias, (2, 1), (1, 0))
    torch.testing.assert_close(split(x), expected, rtol=1e-4, atol=1e-5)


def test_as_it_is_shipped_it_splits_our_models(compose_config):
    """Layers that cannot become smaller, the first one of three channels, stay whole."""
    cfg = compose_config("compress=low_rank", "model=resnet20")
    network = resnet20(10, (3, 8, 8), lambda: QCFS(4, 1.0))
    split = instantiate(cfg.compress.stages.low_rank)(network, [])
    assert isinstance(split.get_submodule("conv1"), nn.Conv2d)
    assert 0.45 * size(network)["parameters"] < size(split)["parameters"] < 0.55 * size(network)["parameters"]


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.8])
def test_budget_is_kept_and_used(budget):
    network = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1, bias=False))
    split = split_convolutions(network, [], budget=budget)
    rank, whole = split[0][0].out_channels, 16 * 24 * 9
    assert rank * (16 * 3 + 24 * 3) <= budget * whole < (rank + 1) * (16 * 3 + 24 * 3)
    assert size(split)["parameters"] == rank * (16 * 3 + 24 * 3)


@pytest.mark.parametrize("energy", [0.3, 0.6])
def test_energy_is_the_least_rank(energy):
    network = nn.Sequential(nn.Conv2d(16, 16, 3, bias=False))
    matrix = network[0].weight.detach().double().permute(1, 2, 0, 3).reshape(48, 48)
    squares = np.linalg.svd(matrix.numpy(), compute_uv=False) ** 2
    rank = split_convolutions(network, [], budget=None, energy=energy)[0][0].out_channels
    assert squares[:rank].sum() >= energy * squares.sum() > squares[: rank - 1].sum()


@pytest.mark.parametrize(("settings", "message"), [
    ({"budget": 0}, "budget=0"), ({"energy": 0.5}, "one of them"), ({"budget": None}, "one of them"),
    ({"ranks": {"4": 100}}, r"^4: rank=100: must be an integer from 1 to 24"), ({"ranks": {"x": 1}}, "x: no k×k"),
    ({"budget": 0.001}, "no convolution becomes smaller"), ({"except_for": ["*"]}, "no convolution becomes smaller"),
])  # fmt: skip
def test_ranks_out_of_range(settings, message, unchecked):
    with pytest.raises(ValueError, match=message):
        split_convolutions(vgg_like(), [], **settings)


# on disk


def compress(network, *steps):
    for step in steps:
        network = step(network)
    return network


STEPS = {
    "prune": lambda network: prune_channels(network, BATCHES, ratio=0.25),
    "sparse": lambda network: sparsify(network, []),
    "low_rank": lambda network: split_convolutions(network, [], budget=0.6),
}


@pytest.mark.parametrize(
    "order", [["prune"], ["low_rank"], ["prune", "low_rank"], ["low_rank", "prune"], ["prune", "low_rank", "sparse"]]
)
def test_rebuilt_from_plain_values(order):
    network = vgg_like()
    smaller = compress(network, *[STEPS[name] for name in order])
    layers = json.loads(json.dumps(changes(network, smaller)))
    again = rebuilt(vgg_like(), layers)
    again.load_state_dict(smaller.state_dict())
    assert torch.equal(again.eval()(IMAGES), smaller(IMAGES))


def test_nothing_changed_is_nothing():
    assert changes(vgg_like(), vgg_like()) == {}


def test_rebuilding_what_cannot_be():
    with pytest.raises(ValueError, match="is not a description of"):
        rebuilt(vgg_like(), {"0": {"kind": "Conv7d"}})


def test_vgg_is_pruned_everywhere():
    torch.manual_seed(0)
    network = vgg11(10, (3, 32, 32), lambda: QCFS(4, 1.0)).eval()
    smaller = prune_channels(network, [(torch.randn(1, 3, 32, 32), torch.zeros(1))], ratio=0.5)
    assert size(smaller)["parameters"] < 0.27 * size(network)["parameters"]


def test_size_counts_bits():
    network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    assert size(network) == {"parameters": 44, "nonzero": 44, "bits": 44 * 32}
    few = Weights(bits=4)  # a scale for each of six channels, and four biases
    assert size(network, few) == {"parameters": 44, "nonzero": 44, "bits": 40 * 4 + (4 + 6) * 32}
    sparse = sparsify(network, [])
    assert size(sparse, few) == {"parameters": 44, "nonzero": 24, "bits": 20 * 6 + (4 + 6) * 32}


@pytest.mark.parametrize(("later", "lost"), [
    (lambda network: prune_channels(network, BATCHES, ratio=0.25), True),
    (lambda network: split_convolutions(network, []), True),
    (lambda network: sparsify(network, [], keep=1), False),
    (copy.deepcopy, False),
])  # fmt: skip
def test_sparsity_that_a_later_stage_undoes(later, lost):
    network = sparsify(vgg_like(), [])
    assert undone(network, network) == []
    assert bool(undone(network, later(network))) is lost
    assert not undone(vgg_like(), later(vgg_like()))


def test_networks_of_a_formula(unchecked):
    """Activations that are called from a forward of one's own."""
    net = Net(
        lambda net, x: net.c(net.b(net.a(x)).flatten(1)), a=nn.Conv2d(3, 8, 3), b=QCFS(4, 1.0), c=nn.Linear(288, 3)
    )
    assert prune_channels(net.eval(), BATCHES, ratio=0.5).c.in_features == 144
