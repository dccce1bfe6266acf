"""The NIR file: replayed spike for spike, told apart from any other network, and what SpikingJelly's reader makes of it."""

import functools
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks import Net
from snnconv.conversion.methods import burst, qcfs, signed, threshold
from snnconv.conversion.rules import largest
from snnconv.hardware.export import nir as exporter
from snnconv.hardware.export.nir import FILE, check, export, replay, to_nir
from snnconv.hardware.export.normal_form import normal_form
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.models.resnet import resnet20
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

nir = pytest.importorskip("nir")
T = 6


def act(theta: float = 0.7) -> QCFS:
    return QCFS(4, theta)


def conv(channels: int, width: int, stride: int = 1, **settings) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride, padding=1, **settings)


def convert(ann, v_initial=0.5, **simulate):
    return qcfs.convert(ann.eval(), [], neuron=partial(IntegrateFire, v_initial=v_initial), simulate=simulate)


def data(images):
    return SimpleNamespace(test=[(images, torch.zeros(len(images)))])


def plain() -> nn.Module:
    features = [
        conv(1, 4),
        nn.BatchNorm2d(4),
        act(0.9),
        nn.Dropout(0.5),
        nn.AvgPool2d(2),
        conv(4, 4, bias=False),
        act(0.3),
    ]
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(16, 8), act(0.6), nn.Linear(8, 3))


class Block(nn.Module):
    """A residual block between a stem and a head: option A (every second pixel, channels of zeros), or the identity."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stem, self.act0 = conv(1, 4), act(1.3)
        self.conv1, self.act1 = conv(4, width, stride), act(0.9)
        self.conv2, self.act2 = conv(width, width, bias=False), act(0.6)
        self.fc, self.zeros = nn.Linear(width, 3), (width - 4) // 2

    def forward(self, x):
        x = self.act0(self.stem(x))
        y = self.conv2(self.act1(self.conv1(x)))
        if self.zeros:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.zeros - 1, self.zeros + 1))
        y = self.act2(y + x)
        return self.fc(F.adaptive_avg_pool2d(y, 1).view(y.size(0), -1))


class ActivationFirst(nn.Module):
    """Blocks whose shortcut carries a current past its neuron, so neurons of different θ share it."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv(1, 4), conv(4, 4), conv(4, 4)])
        self.acts, self.fc = nn.ModuleList([act(0.8), act(1.1), act(1.7)]), nn.Linear(4, 3)

    def forward(self, x):
        x = self.convs[0](x)
        x = x + self.convs[1](self.acts[0](x))
        x = self.convs[2](self.acts[1](x)) + x
        return self.fc(F.avg_pool2d(self.acts[2](x), 4).flatten(1))


def added_spikes() -> nn.Module:
    """Spikes of two layers of different θ, added before weights."""
    layers = {"fc": nn.Linear(16, 6), "a": act(1.2), "mid": nn.Linear(6, 6), "b": act(0.4), "out": nn.Linear(6, 3)}

    def forward(net, x):
        hidden = net.a(net.fc(x.flatten(1)))
        return net.out(hidden + net.b(net.mid(hidden)))

    return Net(forward, **layers)


def thinned() -> nn.Module:
    """Every second pixel, without an addition behind it."""
    return Net(lambda net, x: net.fc(F.adaptive_avg_pool2d(net.a(net.conv(x))[:, :, ::2, ::2], 1).flatten(1)),
               conv=conv(1, 4), a=act(1.4), fc=nn.Linear(4, 3))  # fmt: skip


NETWORKS = {
    "plain": plain,
    "option A": partial(Block, 8, 2),
    "identity": partial(Block, 4, 1),
    "activation first": ActivationFirst,
    "added spikes": added_spikes,
    "thinned": thinned,
}


IMAGES = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def images():
    return IMAGES


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """original(name, normalize) → a spiking network and its file, written once; look, do not touch."""

    @functools.cache
    def make(name: str = "option A", normalize: bool = True):
        torch.manual_seed(3)
        snn, folder = convert(NETWORKS[name]()), tmp_path_factory.mktemp("original")
        export(None, snn, data(IMAGES), folder, images=4, timesteps=T, normalize=normalize)
        return snn, folder / FILE

    return make


@pytest.fixture
def written(original, tmp_path):
    """The same with a file of one's own to alter."""

    def make(*which):
        snn, path = original(*which)
        return snn, Path(shutil.copy(path, tmp_path / FILE))

    return make


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("normalize", "fold"), [(True, False), (False, True)])
def test_every_spike_is_replayed(name, normalize, fold, images, tmp_path):
    torch.manual_seed(3)
    snn = convert(NETWORKS[name](), fold_threshold=fold)
    before = {path: value.clone() for path, value in snn.state_dict().items()}
    found = export(None, snn, data(images), tmp_path, images=4, timesteps=[2, 8], normalize=normalize)
    assert (found["images"], found["timesteps"], found["differing_spikes"]) == (4, 8, 0)
    assert found["rounding"] == {"differing_spikes": 0, "differing_predictions": 0}
    assert found["files"] == {FILE: (tmp_path / FILE).stat().st_size}
    kept = {"activation first": ["acts.0", "acts.1", "acts.2"]}.get(name, [])
    assert found["thresholds_kept"] == (kept if normalize else list(snn.neurons()))
    _, spikes = replay(nir.read(tmp_path / FILE), images, 8)
    assert found["compared"] == sum(x.numel() for x in spikes.values())
    assert all(0 < x.float().mean() < 1 for x in spikes.values())  # else the comparison says nothing
    check(tmp_path / FILE, snn, images, 3)
    assert all(torch.equal(value, before[path]) for path, value in snn.state_dict().items())


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("normalize", [True, False])
def test_thresholds_that_are_powers_of_two_change_no_bit(kind, normalize, exact_network, exact_images):
    snn, images = convert(exact_network(kind, seed=4)), exact_images(6)
    form = normal_form(snn, images, normalize)
    logits, _ = replay(to_nir(form, images), images, T)
    assert torch.equal(logits, snn(images, T))


def test_a_resnet(tmp_path):
    thetas = iter(torch.linspace(0.3, 1.2, 19).tolist())
    ann = resnet20(10, (1, 16, 16), lambda: act(next(thetas)))
    shown = torch.randn(1, 1, 16, 16)
    found = export(None, convert(ann), data(shown), tmp_path, images=1, timesteps=3)
    assert found["differing_spikes"] == 0
    assert found["nodes"] == {
        "Input": 1,
        "Output": 1,
        "IF": 19,
        "Conv2d": 21 + 7,
        "AvgPool2d": 1,
        "Flatten": 1,
        "Affine": 1,
    }


def test_option_a_is_a_convolution_of_one_pixel(original):
    _, path = original("option A")
    graph = nir.read(path)
    (name,) = [name for name in graph.nodes if "shortcut" in name]
    node = graph.nodes[name]
    expected = np.zeros((8, 4, 1, 1), np.float32)
    expected[np.arange(4) + 1, np.arange(4)] = 1.3 / 0.6  # θ of its source / θ of its neuron
    np.testing.assert_allclose(node.weight, expected, rtol=1e-6)
    assert (tuple(node.stride), tuple(node.padding), node.bias.any()) == ((2, 2), (0, 0), False)
    assert {edge for edge in graph.edges if name in edge} == {("act0", name), (name, "act2")}
    assert ("conv2", "act2") in graph.edges


def test_edges_add_in_the_order_of_the_network(original):
    """x₂ = conv₂ + (x₀ + conv₁): the sum that was there first comes first, so that float32 rounds as it did."""
    _, path = original("activation first")
    sources = [source for source, name in nir.read(path).edges if name == "acts.2"]
    assert sources == ["convs.0", "convs.1", "convs.2"]


def test_metadata_survives_the_file(images, tmp_path):
    torch.manual_seed(3)
    snn = convert(plain(), v_initial=0.25)
    for normalize, thetas in ((True, [1, 1, 1]), (False, [0.9, 0.3, 0.6])):
        export(None, snn, data(images), tmp_path, timesteps=T, normalize=normalize)
        graph = nir.read(tmp_path / FILE)
        assert {key: graph.metadata[key] for key in ("input", "readout", "normalize")} == {
            "input": "constant", "readout": "mean", "normalize": normalize}  # fmt: skip
        for path, theta, origin in zip(("2", "6", "9"), thetas, (0.9, 0.3, 0.6), strict=True):
            node = graph.nodes[path]
            np.testing.assert_allclose(node.v_threshold, np.full_like(node.v_threshold, theta), rtol=1e-6)
            told = dict(node.metadata)
            assert (told.pop("reset"), told.pop("fires")) == ("subtract", "v >= v_threshold")
            assert told == pytest.approx({"v_initial": 0.25 * theta, "threshold": origin})


def test_thresholds_and_potentials_of_their_own(images, tmp_path):
    """θ of each channel, v(0) of each neuron."""
    relu = nn.Sequential(
        conv(1, 4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3)
    )
    batches = [(torch.randn(64, 1, 4, 4), torch.zeros(64))]
    snn = threshold.convert(relu.eval(), batches, neuron=IntegrateFire, rule=largest, per_channel=True)
    first = torch.rand(4, 4, 4, dtype=torch.float64)
    snn.network[1].neuron = IntegrateFire(snn.network[1].neuron.threshold, first)
    for normalize in (True, False):
        found = export(None, snn, data(images), tmp_path, images=4, timesteps=16, normalize=normalize)
        assert found["differing_spikes"] == 0
        node = nir.read(tmp_path / FILE).nodes["1"]
        theta = snn.network[1].neuron.threshold
        np.testing.assert_allclose(node.metadata["threshold"], theta)
        wanted = first * (1 if normalize else theta.view(4, 1, 1))
        np.testing.assert_allclose(node.metadata["v_initial"], wanted)


def test_layout_and_schedule_do_not_matter(images, tmp_path):
    torch.manual_seed(3)
    snn = convert(Block(8, 2), channels_last=True, schedule="layer", chunk=3)
    snn(images, T)  # puts weights into the layout
    assert snn.network.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    found = export(None, snn, data(images), tmp_path, images=4, timesteps=T)
    assert found["rounding"]["differing_spikes"] == 0
    assert normal_form(snn, images).model.network.conv1.weight.is_contiguous()


def test_one_neuron_by_hand():
    """θ = 1 from v = ½, current ¾: 1¼ fires, ¼; 1 fires, 0; ¾; 1½ fires, ½.  A hard reset would fire in steps 1, 3, 5."""
    one = np.ones((1,), np.float32)
    told = {"reset": "subtract", "fires": "v >= v_threshold", "v_initial": 0.5, "threshold": 3.0}
    nodes = {"input": nir.Input({"input": np.array([1])}), "n": nir.IF(one, one, metadata=told),
             "output": nir.Output({"output": np.array([1])})}  # fmt: skip
    graph = nir.NIRGraph(nodes, [("input", "n"), ("n", "output")])
    logits, spikes = replay(graph, torch.tensor([[0.75]]), 5)
    assert logits.flatten().tolist() == spikes["n"].flatten().tolist() == [1, 1, 0, 1, 1]
    nodes["n"].metadata["reset"] = "v_reset"
    with pytest.raises(ValueError, match=r"n \(IF\): expected r = 1 and metadata"):
        replay(graph, torch.ones(1, 1), 1)


# what is wrong is told


def flip(graph, name: str, field: str) -> None:
    values = getattr(graph.nodes[name], field).copy()
    values.flat[0] = -values.flat[0] or 1
    setattr(graph.nodes[name], field, values)


ALTERED = {
    "weight": (lambda graph: flip(graph, "conv1", "weight"), "conv1: weight differs"),
    "bias": (lambda graph: flip(graph, "fc", "bias"), "fc: bias differs"),
    "threshold": (lambda graph: flip(graph, "act1", "v_threshold"), "act1: v_threshold differs"),
    "v(0)": (lambda graph: graph.nodes["act2"].metadata.update(v_initial=0.0), "act2: metadata differs"),
    "edge": (lambda graph: graph.edges.append(("act1", "act2")), "its edges differ"),
    "input": (lambda graph: graph.metadata.update(input="poisson"), "its metadata differ"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_file_is_noticed(what, written, images):
    snn, path = written()
    change, message = ALTERED[what]
    graph = nir.read(path)
    change(graph)
    nir.write(path, graph)
    with pytest.raises(ValueError, match=f"{FILE}: {message}"):
        check(path, snn, images, T)


def test_damaged_files_and_other_networks_are_noticed(written, images):
    snn, path = written("identity")
    with pytest.raises(ValueError, match="another network; only one of the two has"):
        check(path, convert(plain()), images, T)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=f"{FILE}: damaged, or not a NIR graph"):
        check(path, snn, images, T)


def test_the_replay_computes_what_the_file_says(original, images):
    """With another weight, the spikes of its layer and of those behind it differ, and those before it do not."""
    _, path = original()
    graph = nir.read(path)
    _, before = replay(graph, images, T)
    graph.nodes["conv1"].weight *= -1
    _, after = replay(graph, images, T)
    assert torch.equal(before["act0"], after["act0"])
    assert not torch.equal(before["act1"], after["act1"])


def test_no_file_where_a_spike_differs(images, tmp_path, monkeypatch):
    snn, own = convert(plain()), exporter.replay

    def wrong(graph, *rest):
        logits, spikes = own(graph, *rest)
        spikes["6"][1, 2].flatten()[0] ^= True
        return logits, spikes

    monkeypatch.setattr(exporter, "replay", wrong)
    with pytest.raises(ValueError, match=f"{FILE}: 6: 1 of 384 values differ"):
        export(None, snn, data(images), tmp_path, images=4, timesteps=T)
    monkeypatch.setattr(exporter, "replay", own)
    monkeypatch.setattr(exporter, "ROUNDING", -1)
    with pytest.raises(ValueError, match=r"more than rounding at ties can cause; use export\.normalize=false"):
        export(None, snn, data(images), tmp_path, timesteps=T)
    assert not list(tmp_path.iterdir())


HEAD = nn.Flatten(), nn.Linear(16, 3)
UNKNOWN = {
    "max pooling": (lambda: nn.Sequential(conv(1, 4), nn.MaxPool2d(2), act(), *HEAD), r"1 \(MaxPool2d\): cannot be exported"),
    "norm alone": (lambda: nn.Sequential(conv(1, 4), act(), nn.AvgPool2d(2), nn.BatchNorm2d(4), *HEAD), r"3 \(BatchNorm2d\): can"),
    "padding": (lambda: nn.Sequential(conv(1, 1, padding_mode="circular"), act(), *HEAD), "0 .*: padding_mode='circular'"),
    "rectangle": (lambda: nn.Sequential(nn.Conv2d(1, 1, (1, 2)), act(), nn.Flatten(), nn.Linear(12, 3)),
                  r"0 .*: kernel_size=\(1, 2\)"),
    "used twice": (lambda: Net(lambda n, x: n.fc(n.b(n.conv(n.a(n.conv(x)))).flatten(1)), conv=conv(1, 1), a=act(), b=act(),
                               fc=nn.Linear(16, 3)), "conv: used 2 times"),
    "twice itself": (lambda: Net(lambda n, x: n.fc((lambda y: y + n.drop(y))(n.a(n.conv(x))).flatten(1)), conv=conv(1, 1),
                                 a=act(), drop=nn.Dropout(), fc=nn.Linear(16, 3)), "adds a value to itself"),
    "constant": (lambda: Net(lambda n, x: n.fc(n.a(n.conv(x) + 1.0).flatten(1)), conv=conv(1, 1), a=act(), fc=nn.Linear(16, 3)),
                 r"\(calls add\): cannot be exported"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_names_what_nir_has_not(name, images, tmp_path):
    build, message = UNKNOWN[name]
    with pytest.raises(ValueError, match=message):
        export(None, convert(build()), data(images), tmp_path, timesteps=2)
    assert not list(tmp_path.iterdir())


def test_refuses_other_neurons_and_no_images(images, tmp_path):
    ann = plain().eval()
    for method, settings, kind in (
        (burst, {"gamma": 2}, "Burst"),
        (signed, {"negative": 1e-3, "v_initial": 0.5}, "Signed"),
    ):
        with pytest.raises(ValueError, match=rf"2 \({kind}\): only plain integrate-and-fire neurons"):
            export(ann, method.convert(ann, [], **settings), data(images), tmp_path, timesteps=2)
    with pytest.raises(ValueError, match=r"data\.test"):
        export(ann, convert(ann), data(images[:0]), tmp_path, timesteps=2)
    with pytest.raises(ValueError, match=r"export\.images=0"):
        export(ann, convert(ann), data(images), tmp_path, images=0, timesteps=2)


def test_what_spikingjelly_makes_of_it(original, images):
    """Its reader builds hard-reset neurons; made soft by hand, with v(0) from the metadata, they emit the same to the last bit."""
    pytest.importorskip("nirtorch")
    from spikingjelly.activation_based.neuron import IFNode
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    for name in ("plain", "option A"):
        _, path = original(name, False)
        graph = nir.read(path)
        theirs = import_from_nir(path, dt=1.0)
        expected, _ = replay(graph, images, T)

        def run(network=theirs):
            state, outputs = None, []
            for _ in range(T):
                output, state = network(images, state)
                outputs.append(output.detach())
            return torch.stack(outputs)

        neurons = {path: module for path, module in theirs.named_modules() if isinstance(module, IFNode)}
        assert all(neuron.v_reset == 0 for neuron in neurons.values())
        assert not torch.equal(run(), expected)
        starts = {
            name.replace(".", "_"): node.metadata["v_initial"]
            for name, node in graph.nodes.items()
            if isinstance(node, nir.IF)
        }
        for place, neuron in neurons.items():
            neuron.v_reset = None
            neuron.set_reset_value("v", float(starts[place.removesuffix(".module")]))
            neuron.reset()
        assert torch.equal(run(), expected)
