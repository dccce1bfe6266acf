"""A network beside its spiking copy: every site sees what hooks on whole runs would show, and leaves nothing behind."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from networks import Net
from snnconv.data.batches import calibration_images
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.nn.graph.split import segments
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime, to_spiking
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.side_by_side import side_by_side

T = 5


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def conv(channels: int = 1, width: int = 2) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1)


NETWORKS = {
    "neurons see the image": lambda act: nn.Sequential(act(), nn.Flatten(), nn.Linear(16, 3)),
    "neurons are the readout": lambda act: nn.Sequential(nn.Flatten(), nn.Linear(16, 3), act()),
    "the image is added again": lambda act: Net(
        lambda net, x: net.b((net.a(net.conv(x)) + x).view(x.size(0), -1)), conv=conv(1, 1), a=act(), b=act()
    ),
    "a sum that two sites read": lambda act: Net(
        lambda net, x: (lambda y: net.fc(net.b(net.two(net.a(y)) + y).flatten(1)))(net.stem(x)),
        stem=conv(), a=act(), two=conv(2), b=act(), fc=nn.Linear(32, 3),
    ),
    "computed in another order than named": lambda act: Net(
        lambda net, x: net.a(net.fc(net.b(net.conv(x)).flatten(1))), conv=conv(), a=act(), b=act(), fc=nn.Linear(32, 3)
    ),
}  # fmt: skip


@pytest.fixture(params=["plain", "residual", *NETWORKS])
def ann(request, exact_network, make_exact):
    if request.param in NETWORKS:
        return make_exact(NETWORKS[request.param](lambda: QCFS(4)))
    return exact_network(request.param)


def spiking(ann: nn.Module) -> nn.Module:
    return to_spiking(ann, QCFS, lambda path, site: IntegrateFire(site.threshold.item()))


def watched(network: nn.Module, paths, run) -> dict[str, list[tuple]]:
    """(input, output) of the modules at `paths`, at every call, in the order of first calls."""
    seen: dict[str, list[tuple]] = {}
    handles = [
        network.get_submodule(path).register_forward_hook(
            lambda m, i, o, path=path: seen.setdefault(path, []).append((i[0].clone(), o.clone()))
        )
        for path in paths
    ]
    run()
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
def test_every_site_is_what_whole_runs_show(ann, exact_images):
    images, network = exact_images(4), spiking(ann)
    paths = [path for path, module in ann.named_modules() if isinstance(module, QCFS)]
    ours = watched(ann, paths, lambda: ann(images))
    whole = SpikingModel(copy.deepcopy(network), simulation={"schedule": "step", "fold_threshold": False})
    theirs = watched(whole.network, paths, lambda: whole(images, T))
    sites = []
    for site in side_by_side(ann, network, images, T):
        sites.append(site.path)
        same(site.activation, ours[site.path][0][1])
        same(site.current(), torch.stack([current for current, _ in theirs[site.path]]))
        same(site.output(), torch.stack([output for _, output in theirs[site.path]]))
    assert sites == list(theirs)


def test_a_site_sees_its_predecessors_as_they_were_left(exact_network, exact_images):
    """Another neuron, or other weights, at a site: the next one receives what a run of that network gives it."""
    ann, images = exact_network("residual"), exact_images(3)
    changed = spiking(ann)
    changed[2].neuron = IntegrateFire(0.25)
    changed[3].conv1.weight.data *= 2
    expected = [site.current() for site in side_by_side(ann, changed, images, T)]
    got = []
    for site in side_by_side(ann, network := spiking(ann), images, T):
        if site.path == "3.act1":
            site.layer.get_submodule("3.conv1").weight.data *= 2
        got.append(site.current())
        if site.path == "2":
            site.clock.neuron = IntegrateFire(0.25)
    assert expected[1].ne([site.current() for site in side_by_side(ann, spiking(ann), images, T)][1]).any()
    for ours, theirs in zip(got, expected, strict=True):
        same(ours, theirs)
    same(network[3].conv1.weight, changed[3].conv1.weight)


def test_leaves_nothing_behind(exact_network, exact_images):
    ann, images = exact_network("residual", ReLU).train(), exact_images(3)
    network = to_spiking(ann, ReLU, lambda path, site: IntegrateFire(1.0))
    model = SpikingModel(network, Latency())
    first, before = model(images, T), copy.deepcopy(ann.state_dict())
    for site in side_by_side(ann, network, images, T):
        site.output()
    assert ann.training
    assert all(module.training for module in ann.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in ann.state_dict().items())
    for part in (ann, network):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in part.modules())
    same(model(images, T), first)


def test_segments_are_linear_and_share_weights(exact_network):
    network = spiking(exact_network("residual"))
    parts = segments(network, [path for path, m in network.named_modules() if isinstance(m, OverTime)])
    assert [(part.path, part.sources) for part in parts] == [
        ("2", ("",)), ("3.act1", ("2",)), ("3.act2", ("2", "3.act1"))
    ]  # fmt: skip
    assert parts[1].layer.get_submodule("3.conv1") is network[3].conv1


def test_only_what_is_still_read_is_kept(make_exact, exact_images):
    """In a chain, what a site held is gone two sites later."""
    layers = [nn.Flatten(), nn.Linear(16, 8), QCFS(4), nn.Linear(8, 8), QCFS(4), nn.Linear(8, 8), QCFS(4)]
    ann = make_exact(nn.Sequential(*layers))
    held: list[list[weakref.ref]] = []
    for site in side_by_side(ann, spiking(ann), exact_images(2), T):
        gc.collect()
        assert not any(reference() is not None for references in held[:-1] for reference in references)
        held.append([weakref.ref(site.activation), *(weakref.ref(x) for x in site.inputs if held)])
    assert len(held) == 3


def test_calibration_images_are_the_first(exact_images):
    batches = [(exact_images(4, seed), torch.zeros(4)) for seed in (1, 2)]
    both = torch.cat([images for images, _ in batches])
    for count, expected in ((1, 1), (4, 4), (6, 6), (8, 8), (100, 8)):
        same(calibration_images(batches, count), both[:expected])


@pytest.mark.parametrize("batches", [[], [(torch.zeros(0, 1, 4, 4), torch.zeros(0))]])
def test_no_images(batches):
    with pytest.raises(ValueError, match=r"data\.calibration"):
        calibration_images(batches, 4)


def test_at_least_one_image(exact_images):
    with pytest.raises(ValueError, match=r"method\.images=0"):
        calibration_images([(exact_images(4), torch.zeros(4))], 0)
