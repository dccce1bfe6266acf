"""NIR graphs in other tools: our readers give identical spikes; the tools' own readers do not."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import snnconv
from hardware_networks import NETWORKS, Signals, act
from snnconv.conversion.methods import qcfs
from snnconv.hardware.export import nir as export
from snnconv.hardware.export.nir_graph import replay
from snnconv.hardware.export.normal_form import normal_form
from snnconv.readers.as_read import comparison
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

nir = pytest.importorskip("nir")
T, TOOLS = 6, ("spikingjelly", "snntorch", "sinabs", "norse")


def depthwise() -> nn.Module:
    """Depthwise, pointwise, grouped and 3×1 convolutions."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), act(), nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), act(),
                         nn.Conv2d(4, 6, 1, groups=2), act(), nn.Conv2d(6, 4, (3, 1), padding=(1, 0), stride=2), act(),
                         nn.Flatten(), nn.Linear(16, 3))  # fmt: skip


MORE = {
    **{name: NETWORKS[name] for name in ("plain", "residual", "low_rank")},
    "depthwise": depthwise,
    "signals": Signals,
    "ties": lambda: NETWORKS["plain"](),
}


def written(name, folder, make_exact, exact_images, **settings):
    torch.manual_seed(2)
    network = MORE[name]().eval()
    snn = qcfs.convert(make_exact(network) if name == "ties" else network, [], neuron=IntegrateFire)
    x = exact_images(8, 1)
    x = x.squeeze(1) if name == "signals" else x
    path = folder / "network.nir"
    export.export(None, snn, SimpleNamespace(test=[(x, None)]), folder, timesteps=T, images=4, **settings)
    return path, x, *replay(nir.read(path), x, T)


@pytest.mark.parametrize("name", MORE)
@pytest.mark.parametrize("tool", TOOLS)
def test_identical_spikes(tool, name, tmp_path, make_exact, exact_images):
    pytest.importorskip(tool)
    path, x, outputs, spikes = written(name, tmp_path, make_exact, exact_images)
    model = getattr(snnconv.readers, tool)(path)
    model.reset()
    for t in range(T):
        assert torch.equal(model(x), outputs[t])
        for node, trains in spikes.items():
            assert torch.equal(model.spikes[node].bool(), trains[t]), (node, t)
    assert torch.equal(model.run(x, T), outputs)  # from v(0) again
    assert model.run(x[:3], T).shape == (T, 3, 3)
    assert any(0 < trains.float().mean() < 1 for trains in spikes.values())


@pytest.mark.parametrize("name", ["residual", "depthwise", "signals"])
def test_a_pulse_sets_v_initial(name, tmp_path, make_exact, exact_images):
    _, _, outputs, spikes = written(name, tmp_path, make_exact, exact_images)
    path, x, of_pulse, with_relay = written(name, tmp_path, make_exact, exact_images, v_initial="pulse")
    graph = nir.read(path)
    neurons = {node: each for node, each in graph.nodes.items() if type(each).__name__ == "IF"}
    assert all(each.metadata["v_initial"] == 0 for each in neurons.values())
    assert graph.nodes["input"].input_type["input"].tolist() == [x.shape[1] + 1, *x.shape[2:]]
    assert torch.equal(of_pulse, outputs)
    assert set(with_relay) - set(spikes) == {"relay"}
    assert with_relay["relay"].float().mean() == 1 / T
    assert with_relay["relay"][0].all()
    for node, trains in spikes.items():
        assert torch.equal(with_relay[node], trains), node
    model = snnconv.readers.spikingjelly(path)
    assert torch.equal(model.run(x, T), outputs)
    assert torch.equal(model.run(x, T), outputs)


def test_a_pulse_cannot_set_everything(tmp_path, exact_images):
    x = exact_images(2, 1)
    snn = qcfs.convert(nn.Sequential(nn.Conv2d(1, 2, 3, padding=3), act(), nn.Flatten(), nn.Linear(2 * 64, 3)).eval(), [],
                       neuron=IntegrateFire)  # fmt: skip
    with pytest.raises(ValueError, match=r"1: its size \[8, 8\] is larger than the image \[4, 4\]"):
        export.to_nir(normal_form(snn, x), x, "pulse")
    with pytest.raises(ValueError, match=r"export.v_initial=.pulsed.: must be metadata or pulse"):
        export.export(None, snn, SimpleNamespace(test=[(x, None)]), tmp_path, v_initial="pulsed")


def test_what_the_tools_read_by_themselves(tmp_path, make_exact, exact_images):
    pytest.importorskip("nirtorch")
    path, x, outputs, _ = written("plain", tmp_path, make_exact, exact_images)
    sentences = comparison(path, x, outputs)
    assert "outputs differ, and" in sentences["spikingjelly"]
    assert all(text.endswith(f"; use snnconv.readers.{tool}") for tool, text in sentences.items())


def test_no_reset_in_the_file(tmp_path, make_exact, exact_images):
    h5py = pytest.importorskip("h5py")
    path, *_ = written("residual", tmp_path, make_exact, exact_images)
    with h5py.File(path) as file:
        neurons = [node for node in file["node"]["nodes"].values() if node["type"][()] == b"IF"]
        assert neurons
        assert not any("v_reset" in node for node in neurons)


def test_neurons_without_metadata_are_refused(tmp_path):
    ones, size = torch.ones(3).numpy(), torch.tensor([3]).numpy()
    graph = nir.NIRGraph({"input": nir.Input({"input": size}), "a": nir.IF(ones, ones), "output": nir.Output({"output": size})},
                         [("input", "a"), ("a", "output")])  # fmt: skip
    nir.write(tmp_path / "other.nir", graph)
    with pytest.raises(ValueError, match=r"a \(IF\): expected r = 1 and metadata with"):
        snnconv.readers.spikingjelly(tmp_path / "other.nir")
