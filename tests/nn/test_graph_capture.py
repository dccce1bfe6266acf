"""Capture: any network as a graph of its calls, equal to the network for another batch, with the network's own paths and names."""

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks import Net
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.capture import capture
from snnconv.nn.graph.sites import OPERATORS, BoundedReLU, Reduction

FAMILIES = (
    "alexnet", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "squeezenet1_1",
    "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s", "mnasnet0_5",
    "regnet_x_400mf", "regnet_y_400mf", "shufflenet_v2_x0_5", "convnext_tiny", "vit_b_16", "swin_t", "swin_v2_t", "maxvit_t",
)  # fmt: skip
SIZES = {"vit_b_16": 224, "maxvit_t": 224, "inception_v3": 75}


def images(count: int, *shape: int) -> torch.Tensor:
    return torch.randn(count, *shape, dtype=torch.float64)


def require_equal(network: nn.Module, *shape: int, **tolerance: float) -> torch.fx.GraphModule:
    """The captured graph of `network`, equal for batches of other sizes; the network is untouched."""
    network = network.double().eval()
    names, tensors = set(vars(network)), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modules = [(path, id(module)) for path, module in network.named_modules(remove_duplicate=False)]
    graph = capture(network, images(2, *shape))
    assert set(vars(network)) == names
    assert [(path, id(module)) for path, module in network.named_modules(remove_duplicate=False)] == modules
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in tensors.items())
    own = {p.data_ptr() for p in network.parameters()}
    assert not own & {p.data_ptr() for p in graph.parameters()}
    for count in (1, 5):
        x = images(count, *shape)
        with torch.no_grad():
            torch.testing.assert_close(graph(x), network(x), **({"rtol": 1e-9, "atol": 1e-9} | tolerance))
    return graph


def calls(graph: torch.fx.GraphModule) -> list[str]:
    """Paths of the modules and names of the functions that the graph calls."""
    nodes = [node for node in graph.graph.nodes if node.op in ("call_module", "call_function")]
    return [node.target if node.op == "call_module" else node.target.__name__ for node in nodes]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_torchvision(name):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = getattr(models, name)(**({"init_weights": False} if name in ("googlenet", "inception_v3") else {}))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    graph = require_equal(network, 3, *[SIZES.get(name, 64)] * 2, rtol=1e-6, atol=1e-6)
    sites = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    operators = [site for site in sites if isinstance(graph.get_submodule(site), OPERATORS)]
    assert len(operators) == len(set(operators))


RELUS = {
    "F.relu": F.relu, "torch.relu": torch.relu, "method": lambda x: x.relu(), "in place": lambda x: F.relu(x, inplace=True),
    "clamp": lambda x: x.clamp(min=0), "torch.clamp": lambda x: torch.clamp(x, 0), "clamp_min": lambda x: x.clamp_min(0),
    "clip": lambda x: x.clip(0), "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0), "mask": lambda x: x * (x > 0), "absolute": lambda x: (x + x.abs()) / 2,
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)), "leaky": lambda x: F.leaky_relu(x, 0.0),
    "rrelu": lambda x: F.rrelu(x, 0.0, 0.0),
}  # fmt: skip
CLIPS = {
    "relu6": (F.relu6, 6), "hardtanh": (lambda x: F.hardtanh(x, 0.0, 3.0), 3), "clamp": (lambda x: x.clamp(0, 2), 2),
    "where": (lambda x: torch.where(x < 0, torch.zeros_like(x), torch.where(x > 1, torch.ones_like(x), x)), 1),
    "two calls": (lambda x: F.relu(x).clamp(max=4), 4),
}  # fmt: skip


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
def test_every_spelling_of_relu_is_a_module_of_its_own(relu):
    body = Net(lambda net, x: net.b(relu(net.a(x))), a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    graph = require_equal(nn.Sequential(body, nn.Linear(6, 2)), 6)
    assert calls(graph) == ["0.a", "0.relu", "0.b", "1"]
    assert type(graph.get_submodule("0.relu")) is nn.ReLU


@pytest.mark.parametrize(("clip", "ceiling"), CLIPS.values(), ids=CLIPS)
def test_every_clip_is_a_relu_with_a_ceiling(clip, ceiling):
    graph = require_equal(Net(lambda net, x: net.b(clip(4 * net.a(x))), a=nn.Linear(6, 6), b=nn.Linear(6, 2)), 6)
    (site,) = [module for module in graph.modules() if isinstance(module, nn.ReLU)]
    assert isinstance(site, BoundedReLU)
    assert site.ceiling == ceiling


REDUCTIONS = {
    "normalize": lambda x: F.normalize(x, dim=1), "norm": lambda x: x.norm(dim=(1, 2), keepdim=True) * x,
    "amax": lambda x: x - x.amax(2, keepdim=True), "var": lambda x: x * x.var(-1, keepdim=True),
    "logsumexp": lambda x: x.logsumexp(1).unsqueeze(1) + x,
}  # fmt: skip


@pytest.mark.parametrize("reduce", REDUCTIONS.values(), ids=REDUCTIONS)
def test_reductions_are_sites_of_their_own(reduce):
    graph = require_equal(Net(lambda net, x: net.b(reduce(net.a(x))), a=nn.Linear(6, 6), b=nn.Linear(6, 2)), 4, 3, 6)
    assert sum(isinstance(module, Reduction) for module in graph.modules()) == 1


def test_reductions_over_images_are_refused():
    for mixed in (lambda x: x / x.norm(), lambda x: x.amax(0), lambda x: x.var(0)):
        with pytest.raises(ValueError, match="mixes the images of a batch"):
            capture(Net(lambda net, x, mixed=mixed: mixed(net.a(x)), a=nn.Linear(6, 6)), torch.randn(2, 6))


class Capped(nn.ReLU):
    def forward(self, x):
        return x.clamp(0, 1.0)


class Shifted(nn.ReLU):
    def forward(self, x):
        return F.relu(x - 0.5)


def test_a_subclass_of_relu_is_asked_what_it_computes():
    graph = require_equal(nn.Sequential(nn.Linear(4, 4), Capped(), nn.Linear(4, 4), Shifted(), nn.Linear(4, 2)), 4)
    assert graph.get_submodule("1").ceiling == 1
    assert type(graph.get_submodule("3")) is nn.ReLU
    assert operator.sub in {node.target for node in graph.graph.nodes}


def test_what_is_nearly_a_relu_is_none():
    for nearly in (lambda x: x.clamp_min(1e-12), lambda x: F.leaky_relu(x, 1e-9), F.softplus):
        graph = require_equal(Net(lambda net, x, f=nearly: f(net.a(x)), a=nn.Linear(4, 4)), 4)
        assert not any(isinstance(module, nn.ReLU) for module in graph.modules())


def test_one_activation_at_several_places_is_several():
    graph = require_equal(
        Net(
            lambda net, x: net.b(net.act(net.a(net.act(x)))),
            act=nn.ReLU(inplace=True),
            a=nn.Linear(4, 4),
            b=nn.Linear(4, 4),
        ),
        4,
    )
    assert calls(graph) == ["act", "a", "act_2", "b"]


def test_a_layer_at_several_places_and_tied_weights_stay_shared():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    graph = require_equal(Net(lambda net, x: net.b(F.relu(net.a(net.a(x)))), a=first, b=second), 4)
    assert calls(graph) == ["a", "a", "relu", "b"]
    assert graph.a.weight is graph.b.weight


def test_a_layer_of_two_names_is_one():
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)]
    network = Net(lambda net, x: net.chain(x), blocks=nn.ModuleList(layers), chain=nn.Sequential(*layers))
    graph = require_equal(network, 1, 8, 8)
    assert calls(graph) == [f"chain.{i}" for i in range(5)]


def test_a_value_that_changes_in_place_is_read_as_changed():
    def forward(net, x):
        y = net.a(x)
        z = F.relu_(y)
        return net.b(y) + z  # y is what the ReLU has made of it

    graph = require_equal(Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4)), 4)
    assert calls(graph) == ["a", "relu", "b", "add"]

    def through_a_view(net, x):
        y = net.a(x)
        view = y.view(-1, 2, 2)
        F.relu_(y)
        return net.b(y) + view.flatten(1)

    with pytest.raises(ValueError, match="changes in place a value that is also used elsewhere"):
        capture(Net(through_a_view, a=nn.Linear(4, 4), b=nn.Linear(4, 4)), torch.randn(2, 4))


LAYOUTS = {
    "sequence first": lambda net, x: net.b(F.relu(net.a(x.permute(1, 0, 2)))).mean(0),
    "rows joined": lambda net, x: net.b(F.relu(net.a(x.transpose(0, 1).reshape(-1, 4)))).view(3, -1, 4).sum(0),
    "rows of an image joined": lambda net, x: net.b(F.relu(net.a(x.reshape(-1, 4)))).view(-1, 3, 4).sum(1),
    "softmax": lambda net, x: net.a(x.transpose(0, 1)).softmax(0).sum(0),
    "a token for every image": lambda net, x: net.a(torch.cat([net.b.bias.expand(len(x), 1, -1), x], 1)).sum(1),
}


@pytest.mark.parametrize("forward", LAYOUTS.values(), ids=LAYOUTS)
def test_every_activation_sees_the_batch_in_front(forward):
    graph = require_equal(Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4)), 3, 4)
    batches = []
    for module in graph.modules():
        if isinstance(module, nn.ReLU | nn.Softmax):
            module.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs[0])))
    graph(images(7, 3, 4))
    assert all(count % 7 == 0 for count in batches)


REFUSED = {
    "active dropout": (
        lambda net, x: net.b(F.dropout(net.a(x), 0.5)),
        "calls dropout.*is active.*training=self.training",
    ),
    "mean of the batch": (lambda net, x: net.b(x) - x.mean(0), "mixes the images"),
    "relations of images": (lambda net, x: net.b(x) @ net.a(x).T, "mixes the images"),
    "sum over the batch": (lambda net, x: net.b(x).cumsum(0), "mixes the images"),
    "softmax over the batch": (lambda net, x: net.b(x).softmax(0), "mixes the images"),
    "batch statistics": (lambda net, x: F.batch_norm(net.b(x), None, None, training=True), "uses batch statistics"),
    "branch on values": (
        lambda net, x: net.a(x) if x.sum() > 0 else net.b(x),
        "cannot be captured: it branches on values",
    ),
    "two outputs": (lambda net, x: (net.a(x), net.b(x)), "returns a tuple of 2, expected one tensor"),
    "dictionary": (lambda net, x: {"out": net.a(x)}, "returns a dict of 'out', expected one tensor"),
    "number of images": (lambda net, x: net.a(x) / len(x), "number of images"),
}


@pytest.mark.parametrize(("forward", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_captured_is_refused_with_a_reason(forward, message):
    with pytest.raises(ValueError, match=message):
        capture(Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4)), torch.randn(2, 4))


def test_recurrence_is_refused_by_name():
    with pytest.raises(ValueError, match=r"rnn \(calls lstm\): a recurrent layer"):
        capture(Net(lambda net, x: net.rnn(x)[0], rnn=nn.LSTM(4, 4, batch_first=True)), torch.randn(2, 3, 4))


def test_constants_are_computed_once_and_defaults_are_used():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain, self.fc = nn.Parameter(torch.rand(4)), nn.Linear(4, 2)

        def forward(self, x, head=None):
            x = (x - torch.tensor([0.3])) / torch.tensor([0.7]) * self.gain.exp()
            return self.fc(x) if head is None else head(x)

    graph = require_equal(Scaled(), 4)
    assert calls(graph) == ["sub", "truediv", "mul", "fc"]


def test_an_activation_with_a_threshold_is_one_call_and_capture_is_idempotent():
    network = nn.Sequential(nn.Linear(4, 4), QCFS(4, 1.0), nn.Linear(4, 2))
    graph = require_equal(network, 4)
    assert calls(graph) == ["0", "1", "2"]
    assert isinstance(graph.get_submodule("1"), QCFS)
    assert set(graph.state_dict()) == set(network.state_dict())
    assert capture(graph, images(2, 4)) is graph


def test_training_mode_switches_dropout_and_batch_norm():
    network = Net(
        lambda net, x: F.dropout(net.bn(net.a(x)), 0.5, training=net.training), a=nn.Linear(4, 4), bn=nn.BatchNorm1d(4)
    )
    graph = require_equal(network, 4).train()
    graph(images(8, 4))
    assert graph.bn.num_batches_tracked == 1
    assert not torch.equal(graph(images(8, 4)), graph(images(8, 4)))


def test_a_hook_on_one_call_of_a_module_does_not_see_another_call():
    act = nn.ReLU()
    graph = capture(nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act), torch.rand(2, 3), (nn.ReLU,))
    sites, calls = [module for module in graph.modules() if isinstance(module, nn.ReLU)], []
    sites[0].register_forward_hook(lambda module, inputs, output: calls.append(module))
    graph(torch.rand(2, 3))
    assert len(sites) == 2
    assert calls == sites[:1]


@pytest.mark.parametrize("pool", [F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d])
def test_adaptive_max_pooling_by_function(pool):
    """Its export has the indices, too, which are not read."""
    rank = int(pool.__name__[-2])

    class Network(nn.Module):
        def forward(self, x):
            return pool(x, 2)

    x = torch.rand(3, 2, *[5] * rank)
    graph = capture(Network(), x)
    assert [type(module).__name__ for module in graph.children()] == [f"AdaptiveMaxPool{rank}d"]
    assert torch.equal(graph(x), pool(x, 2))
