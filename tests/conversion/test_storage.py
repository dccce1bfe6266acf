"""save and load: the same network in another process, from files that can run no code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torch.nn import functional as F

import snnconv
from networks import TRAINING
from snnconv.conversion.method import rehearse
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.models.over_time import MeanOverTime
from snnconv.spiking.encoders.phase import Phase
from snnconv.spiking.encoders.poisson import Poisson
from snnconv.spiking.encoders.ttfs import TimeToFirstSpike
from snnconv.spiking.metrics import Measure, measure
from snnconv.spiking.tasks import Classify, Multilabel, Regress

NOT_OF_IT = "does not start from this network"


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_every_method_comes_back_with_the_same_spikes(
    any_relu_method, compose_config, exact_network, exact_images, tmp_path
):
    if any_relu_method == "finetune":
        pytest.skip("it trains another method's network, which is tested as that")
    cfg = compose_config(f"method={any_relu_method}", "timesteps=6", "levels=4", *TRAINING)
    convert = instantiate(cfg.method)
    batches = [(exact_images(8), torch.arange(8) % 3)]
    snn = None
    for activation in (lambda: QCFS(4), nn.ReLU):
        try:
            snn = rehearse(convert, exact_network("residual", activation), batches)
        except ValueError:
            continue
        break
    assert snn is not None, NOT_OF_IT
    images = exact_images(5)
    expected = snn(images, timesteps=6)
    snn.timesteps = 6
    snnconv.save(snn, tmp_path / "snn")
    again = snnconv.load(tmp_path / "snn")
    same(again(images, timesteps=6), expected)
    same(again(images), expected)  # its own T
    assert (again.latency, again.timing, again.simulation, again.method) == (
        snn.latency,
        snn.timing,
        snn.simulation,
        snn.method,
    )
    same(snn(images, timesteps=6), expected)  # saving left it as it was


@pytest.mark.long
def test_in_a_process_without_the_network_s_source(tmp_path):
    script = """
import sys, torch, snnconv
from torch import nn
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 3)
    def forward(self, x):
        return self.b(self.a(x).relu())
torch.manual_seed(0)
snn = snnconv.convert(Own(), torch.rand(64, 4), method="percentile", percent=99.0)
snnconv.save(snn, sys.argv[1])
print(snn(torch.ones(2, 4) / 3, timesteps=5).sum(0).tolist())
"""
    made = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "own")], capture_output=True, text=True, check=True
    )
    again = snnconv.load(tmp_path / "own.json")
    same(again(torch.ones(2, 4) / 3, timesteps=5).sum(0), torch.tensor(json.loads(made.stdout.splitlines()[-1])))


class Tied(nn.Module):
    """Two calls of one layer, a constant, and ReLU as a function."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(8, 2)

    def forward(self, x):
        y = F.relu(self.layer(x))
        return self.head(torch.cat([y, F.relu(self.layer(y) - 0.25)], 1))


def test_an_ann_is_captured_with_an_example(tmp_path):
    network = Tied().eval()
    x = torch.rand(5, 4)
    snnconv.save(network, tmp_path / "ann", example=x)
    again = snnconv.load(tmp_path / "ann")
    same(again(x), network(x))
    assert len([*again.parameters()]) == len([*network.parameters()])  # the shared layer is one


@pytest.mark.parametrize("method", ["ha_snm", "temporal_bias"])
def test_a_model_for_one_t_says_so(method, exact_network, exact_images, tmp_path):
    settings = {"images": 8} if method == "temporal_bias" else {}
    snn = snnconv.convert(exact_network("plain"), [(exact_images(8), torch.zeros(8))], method=method, **settings)
    expected = snn(exact_images(2), timesteps=3)
    snnconv.save(snn, tmp_path / "snn")
    again = snnconv.load(tmp_path / "snn")
    with pytest.raises(
        ValueError, match="was saved for T ≤ 3" if method == "temporal_bias" else "was saved for T = 3 only"
    ):
        again(exact_images(2), timesteps=4)
    if method == "temporal_bias":  # its network for T = 3 serves smaller T
        for timesteps in (2, 3, 1):
            same(again(exact_images(2), timesteps=timesteps), expected[:timesteps])
    else:
        with pytest.raises(ValueError, match="was saved for T = 3 only"):
            again(exact_images(2), timesteps=2)
    same(again(exact_images(2), timesteps=3), expected)


@pytest.fixture
def stored(tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    snnconv.save(snnconv.convert(model, torch.rand(50, 4)), tmp_path / "snn")
    return tmp_path / "snn"


def edit(stored: Path, change) -> None:
    file = stored.with_suffix(".json")
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def first(content, op):
    return next(node for node in content["network"]["nodes"] if node["op"] == op)


EVIL = {
    "a function": lambda c: first(c, "call_module").update(op="call_function", target="os.system", args={"tuple": ["true"]}),
    "a torch function": lambda c: first(c, "call_module").update(op="call_function", target="torch.load"),
    "a file of aten": lambda c: first(c, "call_module").update(op="call_function", target="aten.from_file.default"),
    "code in a path": lambda c: first(c, "call_module").update(target="0;__import__('os')"),
    "code in an argument": lambda c: first(c, "call_module")["kwargs"]["mapping"].update({"a=print(1),b": 1}),
    "a class": lambda c: next(iter(c["network"]["modules"].values())).update({"class": "subprocess.Popen"}),
    "a module": lambda c: next(iter(c["network"]["modules"].values())).update({"class": "torch.nn.modules.fold.torch"}),
    "a method": lambda c: next(iter(c["network"]["modules"].values()))["attributes"].update(forward={"function": "operator.add"}),
    "hooks": lambda c: next(iter(c["network"]["modules"].values()))["attributes"].update(_forward_hooks={"mapping": {}}),
    "an op": lambda c: first(c, "call_module").update(op="call_method", target="__reduce__"),
    "a value": lambda c: first(c, "call_module").update(args={"tuple": [{"memory_format": "load"}]}),
    "nothing": lambda c: c.pop("network"),
    "another format": lambda c: c.update(format=99),
}  # fmt: skip


@pytest.mark.parametrize("what", EVIL)
def test_foreign_descriptions_are_refused_and_run_nothing(stored, what):
    edit(stored, EVIL[what])
    with pytest.raises(ValueError, match=r"snn\.json"):
        snnconv.load(stored)


def test_damaged_and_missing_files_are_named(stored):
    tensors = stored.with_suffix(".safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"snn\.safetensors: damaged"):
        snnconv.load(stored)
    tensors.unlink()
    with pytest.raises(FileNotFoundError, match=r"snn\.safetensors"):
        snnconv.load(stored)


def test_what_has_no_plain_form_is_named(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x).real

    with pytest.raises(ValueError, match=r"fft_rfft|cannot be saved"):
        snnconv.save(Odd(), tmp_path / "odd")


def test_a_run_folder_loads_as_an_ann():
    ann = snnconv.load(Path(__file__).parents[1] / "stored_runs" / "mlp")
    assert not ann.training
    assert ann(torch.rand(2, 1, 8, 8)).shape == (2, 10)


TASK_METRICS = {
    "classify": Classify(
        metrics={"f1": measure("F1Score", task="multiclass", num_classes=3, average="none", percent=True)}
    ),
    "regress": Regress(mean=[1.0, 2, 3], std=[2.0, 1, 1], metrics={"mae": measure("MeanAbsoluteError")}),
    "multilabel": Multilabel(label_weights=[1.0, 2, 3], readout="membrane"),
}
TARGETS = {
    "classify": torch.arange(20) % 3,
    "regress": torch.rand(20, 3) * 3,
    "multilabel": torch.arange(60).view(20, 3) % 2 * 1.0,
}


@pytest.mark.parametrize("name", TASK_METRICS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_task_and_its_metrics_come_back(name, precision, tmp_path):
    """With the same scores and metrics at every t."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x, task = torch.rand(20, 4), TASK_METRICS[name]
    snn = snnconv.convert(model, x, simulation={"precision": precision}).for_task(task)
    snnconv.save(snn, tmp_path / "snn")
    again = snnconv.load(tmp_path / "snn")
    assert (again.task.name, again.task.readout, again.latency) == (name, task.readout, snn.latency)
    assert again.exact is None or again.exact.task is again.task
    batches = [(x, TARGETS[name])]
    before, after = (snnconv.accuracy_over_time(each, batches, 4) for each in (snn, again))
    assert (after.correct, after.metrics) == (before.correct, before.metrics)
    same(again.task.loss(x[:, :3], TARGETS[name]), task.loss(x[:, :3], TARGETS[name]))


@pytest.mark.parametrize("encoder", [Poisson(seed=3), Phase(bits=4, low=-1.0), TimeToFirstSpike(window=5)])
def test_the_encoder_comes_back_with_its_range(encoder, tmp_path):
    x = torch.rand(20, 4)
    snn = snnconv.convert(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), x).encoded(encoder, [(x, x)])
    snnconv.save(snn, tmp_path / "snn")
    again = snnconv.load(tmp_path / "snn")
    same(again(x, 10), snn(x, 10))
    assert again.latency == snn.latency


def test_a_network_of_frames_goes_on_reading_frames(tmp_path):
    frames = torch.rand(12, 5, 4)
    snn = snnconv.convert(MeanOverTime(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))), frames)
    snnconv.save(snn, tmp_path / "snn")
    again = snnconv.load(tmp_path / "snn")
    same(again(frames, 7), snn(frames, 7))
    assert again.latency.encoding == "frames"
    description = json.loads((tmp_path / "snn.json").read_text())
    for key in ("task", "encoder"):
        del description[key]  # as files of older versions are
    (tmp_path / "snn.json").write_text(json.dumps(description))
    same(snnconv.load(tmp_path / "snn")(frames, 7), snn(frames, 7))


def test_a_metric_that_is_no_data_is_not_stored(tmp_path):
    class Own(type(measure("MeanAbsoluteError").metric)):
        pass

    snn = snnconv.convert(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(20, 4))
    with pytest.raises(
        ValueError, match=r"metric own: cannot be stored; make it by snnconv\.spiking\.metrics\.measure"
    ):
        snnconv.save(snn.for_task(Regress(metrics={"own": Measure(Own())})), tmp_path / "snn")
    snnconv.save(snn.for_task(Regress(metrics={"mae": measure("MeanAbsoluteError")})), tmp_path / "snn")
    text = (tmp_path / "snn.json").read_text()
    (tmp_path / "snn.json").write_text(text.replace('"MeanAbsoluteError"', '"BootStrapper"'))
    with pytest.raises(ValueError, match=r"snn\.json: metric"):
        snnconv.load(tmp_path / "snn")
