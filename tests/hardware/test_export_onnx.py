"""The ONNX file: activation for activation what torch computes but for ties, and told apart from any other network."""

import functools
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks import Net
from snnconv.conversion.methods import qcfs
from snnconv.data.batches import Batches
from snnconv.hardware.export import onnx_comparison, onnx_graph, onnx_openvino
from snnconv.hardware.export import onnx_unrolled as unrolled
from snnconv.hardware.export.onnx import FILE, check, export
from snnconv.hardware.export.onnx_comparison import int8_layers
from snnconv.hardware.export.onnx_metadata import describe
from snnconv.nn.activations.clipped_relu import ClippedReLU
from snnconv.nn.activations.noisy_qcfs import NoisyQCFS
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.qcfs_floor_first import QCFSFloorFirst
from snnconv.nn.activations.relu import ReLU
from snnconv.nn.activations.slip_relu import SlipReLU
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.quantization import quantize
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.recording import recording
from snnconv.training.quantized_weights import Weights

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
IMAGES = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(5))


def data(images=IMAGES):
    return SimpleNamespace(test=[(images, torch.zeros(len(images)))])


def act(theta: float = 0.7, levels: int = 4) -> QCFS:
    return QCFS(levels, theta)


def conv(channels: int, width: int, **settings) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, **{"padding": 1, **settings})


class Block(nn.Module):
    """Batch norms, a shortcut of every second pixel and channels of zeros, functions as well as modules."""

    def __init__(self, make=act) -> None:
        super().__init__()
        self.stem, self.bn, self.act0 = conv(1, 4, bias=False), nn.BatchNorm2d(4), make()
        self.conv1, self.act1 = conv(4, 8, stride=2), make()
        self.conv2, self.act2 = conv(8, 8), make()
        self.fc = nn.Linear(8, 3)
        self.bn.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.act0(self.bn(self.stem(x)))
        y = self.conv2(self.act1(self.conv1(x)))
        y = self.act2(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 3)))
        return self.fc(F.adaptive_avg_pool2d(y, 1).view(y.size(0), -1))


def plain() -> nn.Module:
    features = [conv(1, 4), act(0.9), nn.Dropout(0.5), nn.AvgPool2d(2), conv(4, 4, bias=False), act(0.3, 255)]
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(16, 8), act(0.6, 1), nn.Linear(8, 3, bias=False))


NETWORKS = {"plain": plain, "block": Block}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """original() → a network and its file, written once; look, do not touch."""

    @functools.cache
    def make():
        torch.manual_seed(3)
        ann, folder = Block().eval(), tmp_path_factory.mktemp("original")
        export(ann, None, data(), folder)
        return ann, folder / FILE

    return make


@pytest.fixture
def written(original, tmp_path):
    """The same with a file of one's own to alter."""
    ann, path = original()
    return ann, Path(shutil.copy(path, tmp_path / FILE))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("weight_bits", "per_channel"), [(None, True), (8, True), (8, False), (2, True)])
def test_every_level_is_that_of_torch(name, weight_bits, per_channel, tmp_path):
    torch.manual_seed(3)
    ann = NETWORKS[name]().eval()
    before = {path: value.clone() for path, value in ann.state_dict().items()}
    found = export(ann, None, data(), tmp_path, images=6, weight_bits=weight_bits, per_channel=per_channel)
    assert (found["images"], found["differing_levels"]) == (6, 0)
    assert found["compared"] == 6 * {"plain": 4 * 16 + 4 * 4 + 8, "block": 4 * 16 + 2 * 8 * 4}[name]
    assert (found["quantized_activations"], found["plain_activations"]) == (3, {})
    optimized = found["optimized"]
    runs = [found["same_activations"], found["end_to_end"], optimized["without WeightBiasQuantization"]]
    for run in (
        runs if weight_bits is None else [*runs, optimized["defaults"]]
    ):  # the default rounds float weights again
        assert run["largest_difference"] < 1e-6
    assert found["files"] == {FILE: (tmp_path / FILE).stat().st_size}
    assert ("rounded_weights" in found) == (weight_bits is not None)
    check(tmp_path / FILE, ann, IMAGES)
    assert all(torch.equal(value, before[path]) for path, value in ann.state_dict().items())


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_those_of_quantize(per_channel, tmp_path):
    torch.manual_seed(3)
    ann = Block().eval()
    export(ann, None, data(), tmp_path, weight_bits=4, per_channel=per_channel)
    stored = {part.name: onnx.numpy_helper.to_array(part) for part in onnx.load(tmp_path / FILE).graph.initializer}
    for path in ("stem", "conv1", "conv2", "fc"):
        expected = quantize(fold_batchnorm(ann).get_submodule(path).weight, 4, per_channel)
        integers, scale = stored[f"{path}.weight.integers"], stored[f"{path}.weight.scale"]
        assert integers.dtype == np.int8
        assert np.array_equal(integers, expected.integers.numpy())
        assert np.array_equal(scale, expected.scale.numpy() if per_channel else expected.scale[0].numpy())
        assert not stored[f"{path}.weight.zero"].any()
    assert stored["act1.scale"] == np.float32(0.7) / np.float32(4)
    assert stored["zero_uint8"] == 0


@pytest.mark.parametrize("per_channel", [True, False])
def test_biases_count_in_the_unit_of_their_sums(per_channel, tmp_path):
    """Behind levels of step θ/L: θ/L times the scale of the weights.  Behind images and in shared layers biases are floats."""
    torch.manual_seed(3)
    ann = Net(lambda n, x: n.fc(n.pool(n.act1(n.twice(n.twice(n.act0(n.first(x)))))).flatten(1)), first=conv(1, 4), act0=act(0.9),
              twice=conv(4, 4), act1=act(0.7), pool=nn.AvgPool2d(2), fc=nn.Linear(16, 3)).eval()  # fmt: skip
    export(ann, None, data(), tmp_path, per_channel=per_channel)
    stored = {part.name: onnx.numpy_helper.to_array(part) for part in onnx.load(tmp_path / FILE).graph.initializer}
    for path in ("first", "twice"):
        assert np.array_equal(stored[f"{path}.bias"], ann.get_submodule(path).bias.detach().numpy())
    unit = stored["fc.weight.scale"] * np.float32(np.float32(0.7) / np.float32(4) / 4)  # averages of four pixels
    assert stored["fc.bias.integers"].dtype == np.int32
    assert np.allclose(stored["fc.bias.scale"], unit, rtol=1e-6)
    assert np.array_equal(stored["fc.bias.integers"], np.rint(ann.fc.bias.detach().numpy() / unit))


def test_a_bias_beyond_int32_stays_float(tmp_path):
    ann = nn.Sequential(conv(1, 1), act(), nn.Flatten(), nn.Linear(16, 2)).eval()
    ann[3].weight.data *= 1e-12
    export(ann, None, data(), tmp_path)
    stored = {part.name: onnx.numpy_helper.to_array(part) for part in onnx.load(tmp_path / FILE).graph.initializer}
    assert np.array_equal(stored["3.bias"], ann[3].bias.detach().numpy())


def test_weights_that_were_trained_in_few_bits_keep_them(tmp_path):
    torch.manual_seed(3)
    ann = Block().eval()
    for weights, bits in (
        (Weights(bits=4, layers={"conv*": 2, "fc": 8}), {"stem": 4, "conv1": 2, "conv2": 2, "fc": 8}),
        (Weights(bits="power_of_two"), dict.fromkeys(("stem", "conv1", "conv2", "fc"), "power_of_two")),
    ):
        trained = weights(ann)
        facts = export(trained, None, data(), tmp_path)["rounded_weights"]
        assert (facts["bits"], facts["layers"]) == (8, bits)
        assert onnx_graph.Built(ann, IMAGES, 8).bits.layers == {}
        stored = {part.name: onnx.numpy_helper.to_array(part) for part in onnx.load(tmp_path / FILE).graph.initializer}
        for path in bits:
            weight = fold_batchnorm(trained).get_submodule(path).weight.detach().numpy()
            scale = stored[f"{path}.weight.scale"].reshape(-1, *[1] * (weight.ndim - 1))
            assert np.allclose(stored[f"{path}.weight.integers"] * scale, weight, atol=1e-6)
        check(tmp_path / FILE, trained, IMAGES)


def test_bits_of_single_layers(tmp_path):
    ann = Block().eval()
    facts = export(ann, None, data(), tmp_path, weight_bits=8, layers={"conv*": 3})
    stored = {part.name: onnx.numpy_helper.to_array(part) for part in onnx.load(tmp_path / FILE).graph.initializer}
    assert facts["rounded_weights"]["layers"] == {"conv*": 3}
    assert [abs(stored[f"{path}.weight.integers"]).max() for path in ("stem", "conv1", "conv2")] == [127, 3, 3]
    check(tmp_path / FILE, ann, IMAGES)
    for settings, message in (
        ({"weight_bits": None, "layers": {"fc": 8}}, r"export\.layers: needs export\.weight_bits"),
        ({"layers": {"head": 8}}, r"export\.layers: no layer with weights matches head"),
        ({"layers": {"fc": 9}}, r"export\.layers\.fc=9: must be 2 to 8"),
    ):
        with pytest.raises(ValueError, match=message):
            export(ann, None, data(), tmp_path, **settings)


@pytest.mark.parametrize("first", ["convolution", "linear"])
def test_openvino_without_rounding_is_torch(first, tmp_path):
    """A linear layer as the first: openvino would round the image to int8."""
    pytest.importorskip("openvino")
    torch.manual_seed(3)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), act(), nn.Linear(32, 8), act(), nn.Linear(8, 3))
    ann = mlp if first == "linear" else Block()
    facts = export(ann.eval(), None, data(), tmp_path, images=6)["openvino"]
    *_, exact = onnx_openvino.SETTINGS
    assert facts[exact]["largest_difference"] < 1e-6
    assert set(onnx_openvino.SETTINGS) < set(facts)
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in ann.modules())
    assert facts["int8_layers"] == f"{layers - 1} of {layers}"


def test_ties_are_counted_by_hand(tmp_path):
    """θ = L = 4: levels of −½, ½, 1½, 2½, 3½, 4½ are 0, 1, 2, 3, 4, 4 in QCFS and 0, 0, 2, 2, 4, 4 with halves to even."""
    ann = nn.Sequential(nn.Flatten(), act(4.0)).eval()
    images = torch.tensor([-0.5, 0.5, 1.5, 2.5, 3.5, 4.5]).view(1, 1, 1, 6)
    found = export(ann, None, data(images), tmp_path)
    assert (found["compared"], found["differing_levels"], found["of_these_exact_ties"]) == (6, 2, 2)
    assert found["same_activations"]["largest_difference"] == 0
    assert found["end_to_end"]["largest_difference"] == 1


def test_activations_with_levels_and_without(tmp_path):
    for make in (act, lambda: QCFSFloorFirst(4, 0.7), lambda: NoisyQCFS(4, 0.7)):
        assert export(Block(make).eval(), None, data(), tmp_path)["quantized_activations"] == 3
    for make, operation in ((ReLU, "Relu"), (nn.ReLU, "Relu"), (lambda: ClippedReLU(4, 0.7), "Clip")):
        found = export(Block(make).eval(), None, data(), tmp_path)
        assert (found["quantized_activations"], found["plain_activations"]) == (0, {operation: 3})
        assert "QuantizeLinear" not in found["nodes"]
        assert found["end_to_end"]["largest_difference"] < 1e-5


FLAT = nn.Flatten(), nn.Linear(16, 3)
OPERATIONS = {
    "max pooling": nn.Sequential(conv(1, 2), nn.MaxPool2d(2, 1, 1, dilation=2), act(), nn.Flatten(), nn.Linear(32, 3)),
    "averages": nn.Sequential(conv(1, 1), act(), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Flatten(), nn.Linear(4, 3)),
    "same": nn.Sequential(nn.Conv2d(1, 1, (2, 4), padding="same"), act(), *FLAT),
    "valid": nn.Sequential(nn.Conv2d(1, 4, 2, padding="valid", dilation=2), act(), *FLAT),
    "groups": nn.Sequential(conv(1, 4), conv(4, 4, groups=2), act(), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(4, 3)),
    "norm alone": nn.Sequential(nn.BatchNorm2d(1), conv(1, 1), act(), *FLAT),
    "linear on rows": Net(lambda n, x: n.fc(n.act(n.rows(x.reshape(x.shape[0], 4, 4))).flatten(1)), rows=nn.Linear(4, 4), act=act(),
                          fc=nn.Linear(16, 3)),
    "used twice": Net(lambda n, x: n.fc(n.act(n.conv(n.act(n.conv(x)))).flatten(1)), conv=conv(1, 1), act=act(), fc=FLAT[1]),
    "functions": Net(lambda n, x: n.fc(F.avg_pool2d(F.relu(n.conv(x)[:, 1:, :-1]), 2, stride=1).relu().flatten(1)), conv=conv(1, 3),
                     fc=nn.Linear(12, 3)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name, tmp_path):
    found = export(OPERATIONS[name].eval(), None, data(), tmp_path, images=6, weight_bits=None)
    assert found["end_to_end"] == {"largest_difference": pytest.approx(0, abs=1e-5), "differing_predictions": 0}


# what is wrong is told


def alter(model, name: str) -> None:
    """Another first number in an initializer, another number among the attributes of a node."""
    for part in model.graph.initializer:
        if part.name == name:
            values = onnx.numpy_helper.to_array(part).copy()
            values.flat[0] += 1
            part.CopyFrom(onnx.numpy_helper.from_array(values, name))
    for node in model.graph.node:
        if node.name == name and node.attribute and node.attribute[0].ints:
            node.attribute[0].ints[0] += 1


@pytest.mark.parametrize(
    "part",
    ["conv1.weight.integers", "conv2.weight.scale", "fc.bias.integers", "act1.scale", "act0.most", "conv1", "pad.pads"],
)
def test_an_altered_file_is_noticed(part, written):
    ann, path = written
    model = onnx.load(path)
    alter(model, part)
    onnx.save(model, path)
    with pytest.raises(ValueError, match=f"{FILE}: {part} differs from the network"):
        check(path, ann, IMAGES)


def test_damaged_files_and_other_networks_are_noticed(written):
    ann, path = written
    assert check(path, ann, IMAGES)["differing_levels"] == 0
    with pytest.raises(
        ValueError, match="differs from the network; the file was changed, is of another network, or was"
    ):
        check(path, plain().eval(), IMAGES)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"{FILE}: damaged, or not written by snnconv"):
        check(path, ann, IMAGES)


@pytest.mark.parametrize(("tensor", "change", "message"), [
    ("act1.levels", lambda x: np.where(x == 1, 2, x).astype(np.uint8), "act1"),
    ("act1", lambda x: x + 0.01, "act1 differ by 0.01"),
    ("logits", lambda x: x + 0.01, "the logits differ by 0.01"),
])  # fmt: skip
def test_no_file_where_it_computes_something_else(tensor, change, message, tmp_path, monkeypatch):
    own = onnx_comparison._run

    def wrong(*arguments):
        found = own(*arguments)
        return {name: change(value) if name == tensor else value for name, value in found.items()}

    monkeypatch.setattr(onnx_comparison, "_run", wrong)
    with pytest.raises(ValueError, match=f"{FILE}: {message}"):
        export(Block().eval(), None, data(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_levels_away_from_ties_are_errors(tmp_path, monkeypatch):
    """A file whose θ is a little larger than the network's: consistent in itself, but other levels."""
    ann = Block().eval()
    made = onnx_graph.Built(ann, IMAGES, 8)
    content = made.model.SerializeToString()
    made.modules["act1"].set_threshold(0.73)
    with pytest.raises(ValueError, match=r"here: act1(:| differ)"):
        onnx_comparison.compared(content, made, IMAGES, "here")


UNKNOWN = {
    "slip": (lambda: Block(lambda: SlipReLU(4, 0.7)), r"act0 \(SlipReLU\): is neither quantized nor clipped only"),
    "levels": (lambda: Block(lambda: act(levels=256)), "act0: 256 levels, but uint8 holds only 255"),
    "sigmoid": (lambda: nn.Sequential(conv(1, 1), nn.Sigmoid(), *FLAT), r"1 \(Sigmoid\): export to ONNX does not"),
    "mean": (lambda: Net(lambda n, x: n.conv(x).mean((2, 3)), conv=conv(1, 4)), r"\(calls mean\): export to ONNX does not"),
    "reflected": (lambda: nn.Sequential(conv(1, 1, padding_mode="reflect"), act(), *FLAT), "0: padding_mode='reflect'"),
    "ceil": (lambda: nn.Sequential(conv(1, 4), nn.AvgPool2d(2, ceil_mode=True), *FLAT), r"1 \(AvgPool2d\): ceil_mode"),
    "adaptive": (lambda: nn.Sequential(conv(1, 4), nn.AdaptiveAvgPool2d(2), *FLAT), r"1 .*: adaptive pooling to 2 does not"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_names_what_onnx_has_not(name, tmp_path):
    build, message = UNKNOWN[name]
    with pytest.raises(ValueError, match=message):
        export(build().eval(), None, data(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_settings_that_there_are_not(tmp_path, monkeypatch):
    ann, newest = Block().eval(), onnx.defs.onnx_opset_version()
    for settings, message in (
        ({"opset": 12}, f"export.opset=12: must be from 13 .* to {newest}"),
        ({"opset": newest + 1}, rf"export\.opset={newest + 1}"),
        ({"weight_bits": 9}, r"export\.weight_bits=9: must be 2 to 8"),
        ({"weight_bits": 1}, "bits=1: weights have 2"),
        ({"images": 0}, r"export\.images=0"),
    ):
        with pytest.raises(ValueError, match=message):
            export(ann, None, data(), tmp_path, **settings)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"pip install 'snnconv\[export\]'"):
        export(ann, None, data(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_other_opsets(opset, tmp_path):
    found = export(Block().eval(), None, data(), tmp_path, opset=opset)
    assert found["differing_levels"] == 0
    assert onnx.load(tmp_path / FILE).opset_import[0].version == opset


def test_over_time_every_spike_is_that_of_the_network(tmp_path, exact_network, exact_images):
    """Spikes of all timesteps, read from the graph; arithmetic without rounding."""
    for kind in ("plain", "residual"):
        snn = qcfs.convert(exact_network(kind, lambda: QCFS(4), seed=3), [], neuron=IntegrateFire)
        x, timesteps = exact_images(6, 1), 3
        facts = unrolled.export(None, snn, SimpleNamespace(test=[(x, None)]), tmp_path, timesteps=timesteps, images=6)
        assert facts["largest_difference"] < 1e-6  # of means over 3 steps
        model = onnx.load(tmp_path / unrolled.FILE)
        onnx.checker.check_model(model, full_check=True)
        paths = list(snn.neurons())
        wanted = [f"t{t}.{path}" for t in range(1, timesteps + 1) for path in paths]
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted
        )
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        values = dict(zip(wanted, session.run(wanted, {"images": x.numpy()}), strict=True))
        trains = {path: [] for path in paths}
        with recording(snn, lambda path, spikes, trains=trains: trains[path].append(spikes.clone())):
            snn(x, timesteps)
        for path, steps in trains.items():
            for t, spikes in enumerate(torch.cat(steps), 1):
                assert np.array_equal(values[f"t{t}.{path}"], (spikes > 0).float().numpy()), (kind, path, t)


def test_int8_layers_are_counted(written):
    _, path = written
    assert int8_layers(path.read_bytes()) == "1 of 4"
    keys = {entry.key for entry in onnx.load(path).metadata_props}
    assert {"weight_bits", "levels", "method"} <= keys


def test_metadata():
    """Pixels 0…255 become inputs by scale and offset, and by mean and standard deviation."""
    pixels = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8)
    batches = Batches(pixels, torch.zeros(12, dtype=torch.int64), 12, [0.25], [0.5])
    model = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    describe(model, SimpleNamespace(test=batches), ["cat", "dog"], method="qcfs")
    found = {entry.key: entry.value for entry in model.metadata_props}
    inputs = next(iter(batches))[0]
    scale, offset, mean, std = (json.loads(found[f"image_{name}"])[0] for name in ("scale", "offset", "mean", "std"))
    assert torch.allclose(pixels * scale + offset, inputs, atol=1e-6)
    assert torch.allclose((pixels / 255 - mean) / std, inputs, atol=1e-5)
    assert (json.loads(found["class_names"]), found["method"]) == (["cat", "dog"], "qcfs")
