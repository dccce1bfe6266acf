"""Surgery: folding batch norm changes nothing, the original is never touched, and every obstacle is named."""

import copy

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from networks import Net
from snnconv.conversion.obstacles import obstacles, require_convertible
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.rewrite import replace_modules
from snnconv.nn.graph.trace import trace
from snnconv.nn.models.resnet import resnet20
from snnconv.nn.models.vgg import VGG

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def make_qcfs() -> QCFS:
    return QCFS(4, threshold=1.0)


def lived_in(network: nn.Module) -> nn.Module:
    """Batch norms as training leaves them: no mean is 0, no variance 1, no scale 1."""
    for module in network.modules():
        if isinstance(module, NORMS):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.2, 3)
            for parameter in module.parameters():  # scale, if there is one; some are negative
                nn.init.normal_(parameter, 0.5)
    return network.eval()


def norms(network: nn.Module) -> list[str]:
    return [path for path, module in network.named_modules() if isinstance(module, NORMS)]


# folding batch norm

FOLDABLE = {
    "conv": lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)),
    "conv without bias": lambda: nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)),
    "grouped conv": lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4)),
    "strided, dilated conv": lambda: nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, dilation=2), nn.BatchNorm2d(3)),
    "norm without scale": lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=False)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, 5), nn.BatchNorm1d(5)),
    "linear without bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 5, bias=False), nn.BatchNorm1d(5)),
    "VGG": lambda: VGG(11, 4, (2, 8, 8), nn.ReLU).features,
    "ResNet": lambda: resnet20(4, (2, 8, 8), nn.ReLU),
}


@pytest.mark.parametrize("make", FOLDABLE.values(), ids=FOLDABLE)
def test_folding_changes_no_output(make):
    network, x = lived_in(make()).double(), torch.randn(3, 2, 8, 8, dtype=torch.float64)
    folded = fold_batchnorm(network)
    assert norms(network)
    assert not norms(folded)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-9, atol=1e-9)


def test_folding_float32_rounds_each_weight_once():
    network = lived_in(FOLDABLE["conv"]())
    folded, (conv, norm) = fold_batchnorm(network), copy.deepcopy(network).double()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    same = {"rtol": 0, "atol": 0}
    torch.testing.assert_close(folded[0].weight, (conv.weight * scale.view(-1, 1, 1, 1)).float(), **same)
    torch.testing.assert_close(folded[0].bias, ((conv.bias - norm.running_mean) * scale + norm.bias).float(), **same)


def conv() -> nn.Conv2d:
    return nn.Conv2d(2, 3, 3)


def norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(3)


STAYS = {
    "before the conv": lambda: nn.Sequential(nn.BatchNorm2d(2), conv()),
    "after an activation": lambda: nn.Sequential(conv(), nn.ReLU(), norm()),
    "after a pooling": lambda: nn.Sequential(conv(), nn.AvgPool2d(2), norm()),
    "conv used twice": lambda: Net(lambda net, x: net.bn(net.conv(x)) + net.conv(x), conv=conv(), bn=norm()),
    "conv output kept": lambda: Net(
        lambda net, x: (lambda hidden: net.bn(hidden) + hidden)(net.conv(x)), conv=conv(), bn=norm()
    ),
    "norm used twice": lambda: Net(
        lambda net, x: net.bn(net.one(x)) + net.bn(net.two(x)), one=conv(), two=conv(), bn=norm()
    ),
    "norm without statistics": lambda: nn.Sequential(conv(), nn.BatchNorm2d(3, track_running_stats=False)),
}


@pytest.mark.parametrize("make", STAYS.values(), ids=STAYS)
def test_a_norm_that_cannot_be_folded_stays(make):
    network, x = make().eval(), torch.randn(3, 2, 8, 8)
    for module in network.modules():
        if isinstance(module, NORMS) and module.running_mean is not None:
            lived_in(module)
    folded = fold_batchnorm(network)
    assert norms(folded) == norms(network)
    torch.testing.assert_close(folded(x), network(x), rtol=0, atol=0)


def test_the_second_of_two_norms_stays():
    network = lived_in(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)))
    folded, x = fold_batchnorm(network), torch.randn(3, 2, 8, 8)
    assert norms(folded) == ["2"]
    torch.testing.assert_close(folded(x), network(x), rtol=1e-5, atol=1e-5)


def test_surgery_leaves_the_original_as_it_was():
    network = lived_in(resnet20(4, (2, 8, 8), make_qcfs)).train()
    before, text = copy.deepcopy(network.state_dict()), repr(network)
    fold_batchnorm(network)
    replace_modules(network, QCFS, lambda module: nn.Identity())
    assert network.training
    assert repr(network) == text
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_copy_shares_no_weight_with_the_original():
    network = lived_in(resnet20(4, (2, 8, 8), make_qcfs))
    for copied in (fold_batchnorm(network), replace_modules(network, QCFS, lambda module: nn.Identity())):
        assert not {p.data_ptr() for p in network.parameters()} & {p.data_ptr() for p in copied.parameters()}


def test_replacing_makes_one_module_a_site():
    network = nn.Sequential(QCFS(4, 1.0), nn.Sequential(QCFS(4, 2.0)), nn.ReLU())
    replaced = replace_modules(network, QCFS, lambda site: nn.Softplus(site.threshold.item()))
    assert [m.beta for m in replaced.modules() if isinstance(m, nn.Softplus)] == [1.0, 2.0]
    assert isinstance(replaced[2], nn.ReLU)


# obstacles


class Wave(nn.Module):
    """An activation that conversion has never heard of."""

    def forward(self, x):
        return x.sin()


class Foreign(nn.Module):
    """Follows the activation protocol, but is another method's."""

    levels, threshold = 4, torch.tensor(1.0)

    def set_threshold(self, value): ...

    def forward(self, x):
        return x.clamp(0, 1)


def stage(module: nn.Module) -> nn.Module:
    """`module` at the path body.1, after spikes."""
    body = nn.Sequential(QCFS(4), module)
    return Net(lambda net, x: net.head(net.body(x)), body=body, head=nn.Conv2d(2, 2, 1))


OBSTACLES = {
    "max pooling": (lambda: stage(nn.MaxPool2d(2)), "body.1 (MaxPool2d): no operator replaces it"),
    "adaptive max pooling": (lambda: stage(nn.AdaptiveMaxPool2d(1)), "body.1 (AdaptiveMaxPool2d): no operator"),
    "ReLU": (lambda: stage(nn.ReLU()), "body.1 (ReLU): cannot be converted to spikes; replace it by QCFS"),
    "GELU": (lambda: stage(nn.GELU()), "body.1 (GELU): no operator"),
    "softmax": (lambda: stage(nn.Softmax(1)), "body.1 (Softmax): no operator"),
    "group norm": (lambda: stage(nn.GroupNorm(1, 2)), "body.1 (GroupNorm): no operator"),
    "unknown module": (lambda: stage(Wave()), "body.1 (calls sin): a function, not a module"),
    "another method's": (lambda: stage(Foreign()), "body.1 (Foreign): this method converts QCFS"),
    "functional relu": (
        lambda: stage(Net(lambda net, x: F.relu(net.conv(x)), conv=nn.Conv2d(2, 2, 1))),
        "body.1 (calls relu): a function, not a module",
    ),
    "relu as a method": (
        lambda: stage(Net(lambda net, x: net.conv(x).relu(), conv=nn.Conv2d(2, 2, 1))),
        "body.1 (calls relu): a function, not a module",
    ),
    "functional max pooling": (
        lambda: stage(Net(lambda net, x: F.max_pool2d(net.conv(x), 2), conv=nn.Conv2d(2, 2, 1))),
        "body.1 (calls max_pool2d): a function, not a module, so no operator",
    ),
    "product of two currents": (
        lambda: stage(Net(lambda net, x: net.conv(x) * x, conv=nn.Conv2d(2, 2, 1))),
        "body.1 (calls mul): a function",
    ),
    "division by a current": (
        lambda: stage(Net(lambda net, x: 1.0 / net.conv(x), conv=nn.Conv2d(2, 2, 1))),
        "body.1 (calls truediv): a function",
    ),
    "division that rounds": (
        lambda: stage(Net(lambda net, x: torch.div(x, 2.0, rounding_mode="floor"))),
        "body.1 (calls div): a function",
    ),
    "activation used twice": (
        lambda: Net(lambda net, x: net.act(net.conv(net.act(x))), act=QCFS(4), conv=nn.Conv2d(2, 2, 1)),
        "act (QCFS): used 2 times; a neuron stores its potential",
    ),
    "relu in a block": (
        lambda: nn.Sequential(QCFS(4), nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sequential(nn.ReLU()))),
        "1.1.0 (ReLU): cannot be converted to spikes",
    ),
}


@pytest.mark.parametrize(("make", "message"), OBSTACLES.values(), ids=OBSTACLES)
def test_an_obstacle_is_named_with_its_path(make, message):
    with pytest.raises(ValueError) as error:
        require_convertible(make(), QCFS)
    assert message in str(error.value)
    assert str(error.value).count("\n") == 1  # the network's name, and nothing that is no obstacle


def test_every_obstacle_is_listed_at_once():
    network = nn.Sequential(QCFS(4), nn.MaxPool2d(2), nn.ReLU(), QCFS(4), nn.Tanh())
    assert [obstacle.path for obstacle in obstacles(network, QCFS)] == ["1", "2", "4"]


def test_a_branch_on_values_is_told():
    network = Net(lambda net, x: net.act(x) if x.sum() > 0 else x, act=QCFS(4))
    with pytest.raises(ValueError, match=r"Net: the forward pass cannot be traced .*without branches on values"):
        require_convertible(network, QCFS)


def test_an_optional_argument_has_its_default_in_the_graph():
    """Not a placeholder, which is never None: every rewriting of the user's own network would take the other branch."""

    class Optional(nn.Sequential):
        def forward(self, x, mask=None, double=False, scale=3.0):
            h = super().forward(x)
            h = h if mask is None else h * mask
            return (2 * h if double else h) * scale

    network, x = Optional(nn.Linear(4, 3)), torch.rand(2, 4)
    graph = trace(network)
    assert [node.op for node in graph.nodes].count("placeholder") == 1
    assert torch.equal(fx.GraphModule(network, graph)(x), network(x))
    assert torch.equal(fx.GraphModule(network, trace(fx.GraphModule(network, graph)))(x), network(x))


def test_nothing_to_convert_is_told():
    with pytest.raises(
        ValueError, match="Sequential has no QCFS: nothing to convert; its activations are ReLU: choose"
    ):
        require_convertible(nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()), QCFS)
    with pytest.raises(ValueError, match="has no ReLU: nothing to convert; its activations are QCFS: choose"):
        require_convertible(nn.Sequential(QCFS(4), QCFS(4)), nn.ReLU)
    with pytest.raises(ValueError, match="its activations are of no known kind"):
        require_convertible(nn.Sequential(nn.Linear(2, 2)), QCFS)


FINE = {
    "max pooling before the first spikes": lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.MaxPool2d(2), QCFS(4)),
    "average pooling": lambda: stage(nn.AvgPool2d(2)),
    "functional average pooling": lambda: stage(Net(lambda net, x: F.avg_pool2d(x, 2))),
    "dropout": lambda: stage(nn.Dropout()),
    "a batch norm that stays": lambda: stage(nn.BatchNorm2d(2)),
    "scaling by a number": lambda: stage(Net(lambda net, x: 0.5 * x / 3.0)),
    "scaling by a weight": lambda: stage(Net(lambda net, x: x * net.scale.weight / 2.0, scale=nn.Conv2d(2, 2, 1))),
    "sum of two currents": lambda: stage(Net(lambda net, x: net.conv(x) + x, conv=nn.Conv2d(2, 2, 1))),
    "flatten as a method": lambda: nn.Sequential(QCFS(4), Net(lambda net, x: x.flatten(1)), nn.Linear(128, 2)),
    "view by the batch size": lambda: nn.Sequential(
        QCFS(4), Net(lambda net, x: x.view(x.size(0), -1)), nn.Linear(128, 2)
    ),
    "mean over the image": lambda: nn.Sequential(QCFS(4), Net(lambda net, x: x.mean((2, 3))), nn.Linear(2, 2)),
}


@pytest.mark.parametrize("make", FINE.values(), ids=FINE)
def test_what_spikes_pass_is_no_obstacle(make):
    require_convertible(make(), QCFS)


def test_a_relu_that_writes_into_what_is_read_again_is_an_obstacle():
    class Net(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.a, self.act, self.b = nn.Linear(4, 4), nn.ReLU(inplace=inplace), nn.Linear(4, 4)

        def forward(self, x):
            y = self.a(x)
            return self.b(self.act(y)) + y

    assert obstacles(Net(False), nn.ReLU) == []
    (found,) = map(str, obstacles(Net(True), nn.ReLU))
    assert "act (ReLU): changes in place" in found
