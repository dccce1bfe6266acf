"""ST-BIF: settles to the quantized network itself, exactly, and equals a literal simulation and SpikingJelly's node on the way."""

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, neuron
from torch import nn

from networks import Net
from snnconv.conversion.methods.st_bif import convert
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.nn.functional import qcfs
from snnconv.nn.graph.biases import homogeneous
from snnconv.nn.graph.rewrite import replace_modules
from snnconv.nn.graph.split import split
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.st_bif import STBIF
from snnconv.spiking.recording import count_spikes
from snnconv.spiking.tasks import running_mean

DYADIC = st.integers(-2048, 2048).map(lambda k: k / 256)
POWERS = st.integers(-2, 2).map(lambda k: 2.0**k)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


class Literal(nn.Module):
    """SpikeZIP's neuron in units of its quantum: q(0) = ½; +1 at q ≥ 1 below L spikes, −1 at q < 0 above none."""

    def __init__(self, activation: QCFS) -> None:
        super().__init__()
        self.levels, self.quantum, self.states = activation.levels, activation.threshold.item() / activation.levels, []

    def forward(self, x):
        self.states = self.states or [(0.5, 0)] * x.numel()
        outputs = []
        for place, value in enumerate(x.flatten().tolist()):
            q, total = self.states[place]
            q += value / self.quantum
            spike = 1 if q >= 1 and total < self.levels else -1 if q < 0 and total > 0 else 0
            self.states[place] = q - spike, total + spike
            outputs.append(spike * self.quantum)
        return torch.tensor(outputs, dtype=x.dtype).view(x.shape)


@torch.no_grad()
def simulate_literally(ann, images: torch.Tensor, timesteps: int, presented: int) -> torch.Tensor:
    """The whole network once a timestep; in the first ones with a part of the image and of everything that is added."""
    network = replace_modules(ann, QCFS, Literal)
    added = [t for name, t in network.state_dict().items() if name.endswith(("bias", "running_mean"))]
    whole, logits = [t.clone() for t in added], []
    for t in range(timesteps):
        part = 1 / presented if t < presented else 0
        for tensor, all_of_it in zip(added, whole, strict=True):
            tensor.copy_(part * all_of_it)
        logits.append(network(part * images))
    return torch.stack(logits)


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("presented", ["null", 1, 2])
@pytest.mark.parametrize("schedule", ["step", "layer"])
def test_equals_the_literal_simulation(compose_config, exact_network, exact_images, kind, presented, schedule):
    overrides = [f"method.presented={presented}", f"simulate.schedule={schedule}", "simulate.chunk=3"]
    method = instantiate(compose_config("method=st_bif", *overrides).method)
    for seed in (0, 1):
        ann, images = exact_network(kind, seed=seed), exact_images(4, seed)
        snn = method(ann, [])
        same(snn(images, 10), simulate_literally(ann, images, 10, 4 if presented == "null" else presented))


@torch.no_grad()
def activations(network: nn.Module, kind: type, run) -> list[torch.Tensor]:
    """Outputs of modules of `kind` during `run()`, in order of definition."""
    seen: dict[nn.Module, list] = {module: [] for module in network.modules() if isinstance(module, kind)}
    handles = [module.register_forward_hook(lambda m, i, output: seen[m].append(output)) for module in seen]
    run()
    for handle in handles:
        handle.remove()
    return [torch.stack(outputs).sum(0) for outputs in seen.values()]


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("levels", [1, 2, 4, 8])
def test_settles_to_the_quantized_network(exact_network, exact_images, kind, levels):
    """Summed over time every layer's output is the ANN's activation and the readout its logits; then all is silent."""
    for seed in range(4):
        ann, images = exact_network(kind, lambda: QCFS(levels, 8.0), seed), exact_images(6, seed)
        snn = convert(ann, [], simulate={"schedule": "step", "fold_threshold": False})
        logits = snn(images, 64)
        same(logits.sum(0), ann(images).detach())
        same(logits[-16:], torch.zeros_like(logits[-16:]))
        assert (running_mean(logits)[-1].argmax(-1) == ann(images).argmax(-1)).all()
        layers = activations(ann, QCFS, lambda ann=ann, images=images: ann(images))
        sums = activations(snn, OverTime, lambda snn=snn, images=images: snn(images, 64))
        assert len(layers) == len(sums) > 1
        for layer, total in zip(layers, sums, strict=True):
            same(total, layer)


def test_corrects_itself_on_the_way(exact_network, exact_images):
    snn = convert(exact_network("residual"), [])
    with count_spikes(snn) as counts:
        snn(exact_images(), 32)
    emitted = torch.cat([*counts.values()])
    assert (emitted[:, 2].min(), emitted[:, 3].max()) == (-1, 1)
    assert (snn.latency.signed, snn.latency.spike_levels, snn.latency.needs_training) == (True, 1, "activation")


@pytest.mark.parametrize("levels", [3, 5])
def test_settles_on_any_numbers(fresh_network, levels):
    """Trained statistics and weights like any: in float64 rounding does not reach a level."""
    ann = replace_modules(fresh_network("residual"), QCFS, lambda site: QCFS(levels, 1.7)).double()
    images = torch.randn(8, 1, 4, 4, dtype=torch.float64)
    ann.train()(images)
    ann.eval()
    torch.testing.assert_close(convert(ann, [])(images, 100).sum(0), ann(images).detach(), rtol=1e-9, atol=1e-9)


# networks of other shapes


def act() -> QCFS:
    return QCFS(4, 8.0)


def conv(channels: int = 1, width: int = 2) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1)


ODD = {
    "neurons see the image": lambda: nn.Sequential(act(), nn.Flatten(), nn.Linear(16, 3)),
    "neurons are the readout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3), act()),
    "a norm that stays": lambda: nn.Sequential(conv(), act(), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3)),
    "a norm of features": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(16, 4), act(), nn.BatchNorm1d(4), act(), nn.Linear(4, 3)
    ),
    "max pooling in the stem": lambda: nn.Sequential(conv(), nn.MaxPool2d(2), act(), nn.Flatten(), nn.Linear(8, 3)),
    "no bias anywhere": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4, bias=False), act(), nn.Linear(4, 3, bias=False)),
    "a stem that is no convolution": lambda: Net(
        lambda net, x: net.fc(net.act((x - 0.5) * 2).flatten(1)), act=act(), fc=nn.Linear(16, 3)
    ),
    "the image is added again": lambda: Net(
        lambda net, x: net.fc((net.act(net.conv(x)) + x - 1 * x).flatten(1)), conv=conv(), act=act(), fc=nn.Linear(32, 3)
    ),
    "one layer twice": lambda: Net(
        lambda net, x: net.fc(net.act2(net.conv(net.act1(net.conv(x)))).flatten(1)),
        conv=conv(1, 1), act1=act(), act2=act(), fc=nn.Linear(16, 3),
    ),
    "a linear layer on a sequence": lambda: Net(
        lambda net, x: net.fc(net.act(net.rows(x.flatten(1, 2))).flatten(1)),
        rows=nn.Linear(4, 2), act=act(), fc=nn.Linear(8, 3),
    ),
    "a transposed convolution": lambda: nn.Sequential(
        conv(), act(), nn.ConvTranspose2d(2, 1, 2), act(), nn.Flatten(), nn.Linear(25, 3)
    ),
    "reads its batch size": lambda: Net(
        lambda net, x: net.fc(net.act(net.conv(x.view(x.size(0), 1, 4, 4))).flatten(1)),
        conv=conv(), act=act(), fc=nn.Linear(32, 3),
    ),
    "names of ours": lambda: Net(
        lambda net, x: net.one(net.act_bias(net.conv_bias(net.act(net.conv(x)))).flatten(1)),
        conv=conv(), act=act(), conv_bias=conv(2), act_bias=act(), one=nn.Linear(32, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
@pytest.mark.parametrize("simulate", [{"schedule": "step"}, {"schedule": "layer", "chunk": 3, "fold_threshold": True}])
def test_settles_whatever_the_shape(make, make_exact, exact_images, simulate):
    ann, images = make_exact(make()), exact_images()
    same(convert(ann, [], simulate=simulate)(images, 48).sum(0), ann(images).detach())


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_homogeneous_computes_the_same_and_is_linear(make, make_exact, exact_images):
    """Everything after the first activation, given and fed nothing, puts out nothing; given half, half."""
    ann, images = make_exact(make()), exact_images()
    network = homogeneous(replace_modules(ann, QCFS, lambda site: OverTime(nn.Identity())), OverTime)
    same(network(images), replace_modules(ann, QCFS, lambda site: nn.Identity())(images))
    before, after = split(network, OverTime)
    for share in (0.0, 0.5):
        torch.testing.assert_close(after(*[share * given for given in before(images)]), share * network(images))


@pytest.mark.parametrize(
    "formula",
    [
        lambda net, x: net.fc(net.act(net.conv(x)).flatten(1) + 1),
        lambda net, x: net.fc(1 - net.act(net.conv(x)).flatten(1)),
        lambda net, x: net.fc(net.act(net.conv(x)).flatten(1)) + net.fc.bias,
        lambda net, x: net.fc(nn.functional.pad(net.act(net.conv(x))[..., :2], (0, 2), "constant", 1.0).flatten(1)),
    ],
)
def test_a_bare_constant_is_refused(formula):
    ann = Net(formula, conv=conv(), act=act(), fc=nn.Linear(32, 3))
    with pytest.raises(ValueError, match=r"adds a constant to spikes.*bias of a layer"):
        convert(ann, [])


# one neuron


@given(currents=st.lists(DYADIC, min_size=1, max_size=12), theta=POWERS, levels=st.sampled_from([1, 2, 4, 8]))
def test_one_neuron_settles_to_qcfs(currents, theta, levels):
    """After the current has ended: Σ output = qcfs(Σx, θ, L), in whatever order it came; v(T) = θ/2L + Σx − Σ output."""
    current = torch.tensor([*currents, *[0.0] * 2 * levels], dtype=torch.float64).view(-1, 1)
    node = STBIF(theta, levels)
    output = node(current)
    same(output.sum(0), qcfs(current.sum(0), torch.tensor(theta, dtype=torch.float64), levels))
    same(node.node.v, theta / levels / 2 + current.sum(0) - output.sum(0))
    assert ((output.cumsum(0) >= 0) & (output.cumsum(0) <= theta)).all()


@given(currents=st.lists(DYADIC, min_size=1, max_size=24), theta=POWERS, levels=st.sampled_from([1, 2, 4, 8]))
def test_equals_the_node_of_spikingjelly(currents, theta, levels):
    reference = neuron.STBIFNode(theta / levels, level=levels + 1, pos_max=levels, neg_min=0, step_mode="m")
    current = torch.tensor(currents).view(-1, 1)
    same(STBIF(theta, levels)(current), reference(current))


def test_by_hand():
    """θ = 1, L = 2, a quantum of ½: three come in, two go out; then four too many are taken away, one spike a step."""
    node = STBIF(1.0, levels=2)
    currents = torch.tensor([[1.5], [0.0], [0.0], [-2.0], [0.0], [0.0]])
    assert node(currents).flatten().tolist() == [0.5, 0.5, 0, -0.5, -0.5, 0]
    functional.reset_net(node)
    assert node(torch.tensor([[0.5], [-0.5], [0.0]])).flatten().tolist() == [0.5, -0.5, 0]


# what it refuses


@pytest.mark.parametrize("presented", [0, -1, 1.5, True])
def test_presented_is_a_number_of_steps(exact_network, presented, unchecked):
    with pytest.raises(ValueError, match=r"method\.presented"):
        convert(exact_network(), [], presented=presented)


def test_a_relu_network_has_no_levels(exact_network):
    with pytest.raises(ValueError, match="QCFS"):
        convert(exact_network("plain", ReLU), [])
