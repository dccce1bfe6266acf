"""A network to start from: weights files of every kind, a user's own python file, and what may run from a stored run."""

import copy
import os
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from snnconv.conversion.calibration import calibrate
from snnconv.conversion.methods.qcfs import convert
from snnconv.conversion.obstacles import obstacles
from snnconv.conversion.rules import largest
from snnconv.data.vision import cifar10
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.nn.graph.relus import replace_relus
from snnconv.nn.models.custom import custom
from snnconv.nn.models.mlp import mlp
from snnconv.nn.models.resnet import resnet20
from snnconv.runtime.checkpoint import load_ann
from snnconv.runtime.trust import require_trusted
from snnconv.runtime.weight_files import read_weights
from snnconv.runtime.weights import filled
from snnconv.spiking.accuracy import accuracy
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.training.loop import fit

SHAPE = (1, 4, 4)
EXAMPLE = "examples/akamaster_resnet.py"


def make_qcfs() -> QCFS:
    return QCFS(4, 1.0)


def small(activation=make_qcfs, weights=None) -> nn.Module:
    return mlp(3, SHAPE, activation, hidden=(8, 6), weights=weights)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# reading weights

WRITERS = {
    "state dict": lambda weights, path: torch.save(weights, path.with_suffix(".pt")),
    "nested": lambda weights, path: torch.save({"state_dict": weights, "epoch": 3}, path.with_suffix(".pth")),
    "data parallel": lambda weights, path: torch.save(
        {"state_dict": {f"module.{name}": t for name, t in weights.items()}, "best_prec1": 91.7},
        path.with_suffix(".th"),
    ),
    "compiled": lambda weights, path: torch.save(
        {f"_orig_mod.{name}": t for name, t in weights.items()}, path.with_suffix(".pt")
    ),
    "safetensors": lambda weights, path: save_file(weights, path.with_suffix(".safetensors")),
    "run folder": lambda weights, path: (path.mkdir(), save_file(weights, path / "ann.safetensors")),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_kind_of_file_is_read(write, tmp_path):
    weights = small(ReLU).state_dict()
    write(weights, tmp_path / "net")
    (path,) = tmp_path.iterdir()
    read = filled(small(ReLU), path).state_dict()
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())


class Intruder:
    def __reduce__(self):
        return os.mkdir, ("intruder",)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    torch.save({"state_dict": Intruder()}, tmp_path / "net.pt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"net\.pt: contains an object of "):
        read_weights(tmp_path / "net.pt")
    assert not (tmp_path / "intruder").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "contains a Tensor, expected a state dict"),
        ({"epoch": 3, "lr": 0.1}, "the keys epoch, lr"),
        ({}, "expected a state dict"),
        (b"rubbish", "damaged"),
        (b"", "empty"),
    ],
)
def test_what_is_no_state_dict_is_told(content, message, tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=rf"net\.pt.*{message}"):
        read_weights(path)


def test_a_damaged_safetensors_file_is_told(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=r"net\.safetensors: damaged"):
        read_weights(tmp_path / "net.safetensors")


def test_a_missing_file_and_a_folder_without_weights_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pt: no such file"):
        read_weights(tmp_path / "absent.pt")
    with pytest.raises(FileNotFoundError, match=r"ann\.safetensors: no such file"):
        read_weights(tmp_path)


# filling a network


def save(network: nn.Module, path: Path) -> str:
    torch.save(network.state_dict(), path)
    return str(path)


def test_weights_of_a_relu_network_leave_the_thresholds_unknown(tmp_path):
    relu = small(ReLU)
    ann = small(weights=save(relu, tmp_path / "relu.pt"))
    assert [m.threshold.isnan().item() for m in ann.modules() if isinstance(m, QCFS)] == [True, True]
    assert all(torch.equal(ann.state_dict()[name], tensor) for name, tensor in relu.state_dict().items())


def test_weights_with_thresholds_bring_them(tmp_path):
    trained = small()
    for site, value in zip([m for m in trained.modules() if isinstance(m, QCFS)], (0.5, 2.0), strict=True):
        site.set_threshold(value)
    ann = small(weights=save(trained, tmp_path / "net.pt"))
    assert all(torch.equal(ann.state_dict()[name], tensor) for name, tensor in trained.state_dict().items())


def test_files_from_before_batches_were_counted_fit(tmp_path):
    weights = {name: t for name, t in small(ReLU).state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "old.pt")
    small(ReLU, weights=str(tmp_path / "old.pt"))


BAD = {
    "wrong shape": (
        lambda w: w.update({"1.weight": torch.zeros(8, 5)}),
        r"shape: 1\.weight is \[8, 5\], expected \[8, 16\]",
    ),
    "missing": (lambda w: w.pop("7.bias"), r"missing: 7\.bias \[3\]"),
    "foreign": (
        lambda w: w.update({"conv.weight": w.pop("1.weight")}),
        r"(?s)missing: 1\.weight.*unknown: conv\.weight",
    ),
    "one threshold only": (lambda w: w.update({"3.theta": torch.ones(())}), r"missing: 6\.theta"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_listed(spoil, message, tmp_path):
    weights = small(ReLU).state_dict()
    spoil(weights)
    torch.save(weights, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=message) as error:
        small(weights=str(tmp_path / "bad.pt"))
    assert "bad.pt does not fit Sequential" in str(error.value)


def test_a_long_list_of_differences_is_cut(tmp_path):
    torch.save(small(ReLU).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"… and [0-9]+ more"):
        filled(resnet20(3, SHAPE, ReLU), tmp_path / "other.pt")


def test_every_model_takes_weights(compose_config, any_model, tmp_path):
    if any_model == "timm":
        pytest.importorskip("timm")
    options = (f"model={any_model}", "data=digits")
    relu = instantiate(compose_config(*options, "activation=relu").model)
    path = save(relu, tmp_path / "relu.pt")
    ann = instantiate(compose_config(*options, f"model.weights='{path}'").model)
    assert all(torch.equal(ann.state_dict()[name], tensor) for name, tensor in relu.state_dict().items())
    assert all(m.threshold.isnan() for m in ann.modules() if isinstance(m, QCFS))


def test_a_plain_relu_network_trains_but_is_not_converted(tiny_batches, open_tiny_run, compose_config):
    run = open_tiny_run("relu", "activation=relu", "fit.epochs=1", "fit.batch_size=8")
    relu = instantiate(run.cfg.model)
    fit(relu, tiny_batches(shuffle=True), tiny_batches(), instantiate(run.cfg.fit), run)
    with pytest.raises(ValueError, match="has no QCFS: nothing to convert"):
        convert(relu, [], neuron=IntegrateFire)
    again = open_tiny_run("qcfs", "fit=finetune", "fit.epochs=2", "fit.batch_size=8", f"model.weights='{run.folder}'")
    ann = instantiate(again.cfg.model)
    instantiate(again.cfg.calibration)(ann, tiny_batches())
    fit(ann, tiny_batches(shuffle=True), tiny_batches(), instantiate(again.cfg.fit), again)
    assert "weights" not in (again.folder / "ann.json").read_text().split('"config"')[1].split("}")[0]
    (run.folder / "ann.safetensors").unlink()  # the new run stands on its own
    images = next(iter(tiny_batches()))[0]
    same(load_ann(again.folder)(images), ann(images))
    assert convert(ann, [], neuron=IntegrateFire)(images, timesteps=2).isfinite().all()


# a ReLU by any name


class Shared(nn.Module):
    """As in torchvision: one ReLU module, two sites."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2 = (
            nn.Conv2d(1, 2, 3, padding=1),
            nn.BatchNorm2d(2),
            nn.Conv2d(2, 2, 3, padding=1),
        )
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        identity = out
        out = self.conv2(out)
        out += identity
        return self.head(self.relu(out).flatten(1))


class Calls(nn.Module):
    """A network that calls its ReLU as the test says, inside a block."""

    def __init__(self, relu) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Flatten(), nn.Linear(16, 8))
        self.inner, self.head = Inner(relu), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.inner(self.block(x)))


class Inner(nn.Module):
    def __init__(self, relu) -> None:
        super().__init__()
        self.formula, self.linear = relu, nn.Linear(8, 8)

    def forward(self, x):
        return self.formula(self.linear(self.formula(x)))


RELUS = {
    "F.relu": F.relu,
    "F.relu by keyword": lambda x: F.relu(input=x, inplace=True),
    "torch.relu": torch.relu,
    "method": lambda x: x.relu(),
    "in-place method": lambda x: x.relu_(),
    "in-place function": F.relu_,
}


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
def test_a_function_becomes_a_module_with_a_path(relu):
    network, x = Calls(relu), torch.randn(5, 1, 4, 4)
    before = copy.deepcopy(network.state_dict())
    replaced = replace_relus(network, make_qcfs)
    assert [path for path, m in replaced.named_modules() if isinstance(m, QCFS)] == ["inner.relu", "inner.relu_2"]
    assert [name for name in replaced.state_dict() if "theta" not in name] == list(before)
    same(replace_relus(network, ReLU)(x), network(x))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert obstacles(replaced, QCFS) == []


def test_a_shared_module_becomes_one_for_each_site():
    network, x = Shared().eval(), torch.randn(5, 1, 4, 4)
    replaced = replace_relus(network, make_qcfs)
    assert [path for path, m in replaced.named_modules() if isinstance(m, QCFS)] == ["relu", "relu_2"]
    same(replace_relus(network, ReLU)(x), network(x))
    assert obstacles(network, nn.ReLU)  # as it was, it could not be converted
    assert obstacles(replaced, QCFS) == []
    assert copy.deepcopy(replaced).train().bn1.training


def test_modules_used_once_leave_the_class_as_it_is():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    replaced = replace_relus(network, make_qcfs)
    assert type(replaced) is nn.Sequential
    assert [path for path, m in replaced.named_modules() if isinstance(m, QCFS)] == ["1", "2.1"]
    assert isinstance(network[1], nn.ReLU)


class Formula(nn.Module):
    def __init__(self, formula) -> None:
        super().__init__()
        self.formula, self.linear, self.relu = formula, nn.Linear(4, 4), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.formula(self, x)


def changes_its_input(net, x):
    hidden = net.linear(x)
    return net.relu(hidden) + hidden


def ignores_the_result(net, x):
    hidden = net.linear(x)
    hidden.relu_()
    return net.linear(hidden)


REFUSED = {
    "no ReLU": (lambda net, x: net.linear(x), "contains no ReLU that could be replaced"),
    "in place, read again": (
        changes_its_input,
        r"relu: this ReLU changes in place a value that is also used elsewhere",
    ),
    "in place, result unused": (ignores_the_result, "changes in place"),
    "training flag": (
        lambda net, x: net.relu(F.dropout(net.linear(x), training=net.training)),
        r"reads self\.training",
    ),
    "branch on values": (lambda net, x: net.relu(net.linear(x)) if x.sum() > 0 else x, "cannot be traced"),
}


@pytest.mark.parametrize(("formula", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_replaced_faithfully_is_refused(formula, message):
    with pytest.raises(ValueError, match=message):
        replace_relus(Formula(formula), make_qcfs)


# the user's file

FILE = """
from functools import partial
from subprocess import run
from torch import nn
from neighbour import WIDTH

class MyNet(nn.Module):
    def __init__(self, num_classes, width=WIDTH):
        super().__init__()
        self.flatten, self.one, self.two = nn.Flatten(), nn.Linear(16, width), nn.Linear(width, num_classes)

    def forward(self, x):
        return self.two(self.one(self.flatten(x)).relu())

narrow = partial(MyNet, width=2)

def nothing():
    return 3
"""


@pytest.fixture
def my_net(tmp_path) -> str:
    (tmp_path / "my_net.py").write_text(dedent(FILE))
    (tmp_path / "neighbour.py").write_text("WIDTH = 5\n")
    return str(tmp_path / "my_net.py")


def test_a_class_in_a_file_is_a_model(my_net, compose_config):
    options = (
        "model=custom",
        f"model.path='{my_net}'",
        "model.name=MyNet",
        "data.input_shape=[1,4,4]",
        "data.num_classes=3",
    )
    ann = instantiate(compose_config(*options).model)
    assert ann(torch.zeros(2, 1, 4, 4)).shape == (2, 3)
    assert ann.one.out_features == 5
    assert obstacles(ann, QCFS) == []
    wide = instantiate(compose_config(*options, "+model.arguments.width=7").model)
    assert wide.one.out_features == 7


def test_a_function_in_a_file_is_a_model(my_net):
    assert custom(my_net, "narrow", 3, SHAPE, make_qcfs).one.out_features == 2


def test_weights_fill_it_before_calibration(my_net, tmp_path, exact_images):
    relu = custom(my_net, "MyNet", 3, SHAPE, ReLU)
    ann = custom(my_net, "MyNet", 3, SHAPE, make_qcfs, weights=save(relu, tmp_path / "mine.pth"))
    images = exact_images(8)
    calibrate(ann, [(images, None)], rule=largest)
    assert ann.relu.threshold.item() == relu.one(images.flatten(1)).max().item()


MISTAKES = {
    "no such name": ("MyOtherNet", {}, "defines no class or function 'MyOtherNet'"),
    "imported": ("run", {}, "defines no class or function 'run'"),
    "no network": ("nothing", {}, "returns a int, expected an nn.Module"),
}


@pytest.mark.parametrize(("name", "options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_the_file_does_not_define_is_told(my_net, name, options, message):
    with pytest.raises(ValueError, match=message):
        custom(my_net, name, 3, SHAPE, make_qcfs, **options)


def test_a_file_that_is_missing_or_fails_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such Python file"):
        custom(str(tmp_path / "absent.py"), "Net", 3, SHAPE, make_qcfs)
    (tmp_path / "broken.py").write_text("import absent_package")
    with pytest.raises(
        ValueError, match=r"broken\.py: raises an error when it is run \(ModuleNotFoundError: .*absent_package"
    ):
        custom(str(tmp_path / "broken.py"), "Net", 3, SHAPE, make_qcfs)


# what a stored run may run


def call(path: str = EXAMPLE, **options) -> dict:
    return {"_target_": "snnconv.nn.models.custom.custom", "path": path, "name": "resnet20", **options}


def test_a_stored_python_file_is_code_and_needs_trust():
    with pytest.raises(ValueError, match=r"runs the code in examples/akamaster_resnet\.py.*trust=\[examples/akamaster"):
        require_trusted({"model": call()})
    require_trusted({"model": call()}, [EXAMPLE])
    require_trusted({"model": call(str(Path(EXAMPLE).resolve()))}, [EXAMPLE])


@pytest.mark.parametrize(
    "trust", [[], ["snnconv"], ["snnconv.nn.models.custom"], ["examples"], ["elsewhere/akamaster_resnet.py"]]
)
def test_nothing_but_the_file_itself_makes_it_trusted(trust):
    with pytest.raises(ValueError, match="runs the code in"):
        require_trusted({"model": call()}, trust)


HOSTILE = {
    "another file": call("other.py"),
    "by position": {"_target_": "snnconv.nn.models.custom.custom", "_args_": [EXAMPLE, "resnet20"]},
    "position beats name": call(_args_=["other.py"]),
    "waiting for another path": call(_partial_=True),
    "no text": call(path=[EXAMPLE]),
    "the loader": {"_target_": "snnconv.nn.models.custom.run_file", "path": "other.py"},
    "through the loader's imports": {"_target_": "snnconv.nn.models.custom.importlib.import_module", "name": "os"},
    "through its interpreter": {"_target_": "snnconv.nn.models.custom.sys.exit"},
    "code in the arguments": call(arguments={"num_classes": {"_target_": "os.mkdir", "path": "x"}}),
    "nested": {"_target_": "snnconv.nn.models.mlp.mlp", "activation": call("other.py")},
}


@pytest.mark.parametrize("config", HOSTILE.values(), ids=HOSTILE)
def test_trust_in_a_file_is_trust_in_that_file_only(config):
    with pytest.raises(ValueError, match="stored configuration"):
        require_trusted({"model": config}, [EXAMPLE])


def test_a_stored_custom_run_is_loaded_with_trust_only(my_net, tiny_batches, open_tiny_run, monkeypatch):
    run = open_tiny_run("custom")
    run.cfg.model = {"_target_": "snnconv.nn.models.custom.custom", "path": my_net, "name": "MyNet", "num_classes": 2,
                     "input_shape": list(SHAPE), "activation": run.cfg.model.activation}  # fmt: skip
    ann = instantiate(run.cfg.model)
    run.save_ann(ann, {})
    Path(my_net).write_text(Path(my_net).read_text() + "\nopen('ran', 'w').close()\n")
    monkeypatch.chdir(run.folder)
    with pytest.raises(ValueError, match="trust="):
        load_ann(run.folder)
    assert not Path("ran").exists()
    loaded, images = load_ann(run.folder, trust=[my_net]), next(iter(tiny_batches()))[0]
    assert Path("ran").exists()
    same(loaded(images), ann.eval()(images))


# the example


def test_the_example_is_the_published_network():
    ann = custom(EXAMPLE, "resnet20", 10, (3, 32, 32), make_qcfs)
    assert sum(isinstance(m, QCFS) for m in ann.modules()) == 19
    assert obstacles(ann, QCFS) == []
    assert sum(p.numel() for p in ann.parameters() if p.dim() > 1) == 268_336  # no weights in the shortcuts
    deep = custom(EXAMPLE, "resnet56", 10, (3, 32, 32), make_qcfs)
    assert sum(isinstance(m, QCFS) for m in deep.modules()) == 55


def test_the_example_spikes_as_it_should(exact_images):
    """Option-A shortcuts, slices and padding, carry spikes."""
    ann = custom(EXAMPLE, "resnet20", 4, (3, 8, 8), lambda: QCFS(4, 1.0)).eval()
    snn = convert(ann, [], neuron=IntegrateFire)
    images = torch.randn(2, 3, 8, 8)
    assert snn(images, timesteps=4).shape == (4, 2, 4)
    assert len(snn.neurons()) == 19


def test_a_wrong_weights_file_is_told_with_its_key(compose_config, tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "bad.pt")
    with pytest.raises(InstantiationException, match=r"unknown: fc\.weight"):
        instantiate(compose_config("model=custom", f"model.weights='{tmp_path / 'bad.pt'}'").model)


CHECKPOINTS = Path(os.environ.get("SNNCONV_CHECKPOINTS", "../shared/data/checkpoints"))
PUBLISHED = {"resnet20": ("resnet20-12fca82f.th", 0.9173), "resnet56": ("resnet56-4bfd9763.th", 0.9339)}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "file", "expected"), [(n, f, e) for n, (f, e) in PUBLISHED.items()], ids=PUBLISHED)
def test_the_published_accuracy(name, file, expected, compose_config):
    root = Path(os.environ.get("SNNCONV_DATA", "data"))
    if not (CHECKPOINTS / file).is_file() or not (root / "cifar-10-batches-py").is_dir():
        pytest.skip("needs CIFAR-10 under SNNCONV_DATA and the checkpoints under SNNCONV_CHECKPOINTS")
    data = cifar10(
        str(root), num_classes=10, input_shape=(3, 32, 32), batch_size=100, valid=100, calibration=100, seed=0,
        device="cpu", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    ann = custom(EXAMPLE, name, 10, (3, 32, 32), ReLU, weights=str(CHECKPOINTS / file))
    assert round(accuracy(ann, data.test), 4) == expected


def test_each_file_imports_its_own_neighbours_also_after_an_edit(tmp_path):
    for folder, factor in (("one", 2), ("two", 3)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "neighbour.py").write_text(f"FACTOR = {factor}\n")
        (tmp_path / folder / "net.py").write_text(
            "from neighbour import FACTOR\nfrom torch import nn\n"
            "class Net(nn.Sequential):\n    def __init__(self):\n"
            "        super().__init__(nn.Linear(4, FACTOR), nn.ReLU(), nn.Linear(FACTOR, 2))\n"
        )

    def width(folder: str) -> int:
        return custom(str(tmp_path / folder / "net.py"), "Net", 2, [4], nn.ReLU)[0].out_features

    assert [width("one"), width("two"), width("one")] == [2, 3, 2]
    (tmp_path / "one" / "neighbour.py").write_text("FACTOR = 11\n")
    assert width("one") == 11
