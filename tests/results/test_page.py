"""The page of a run: one file, well formed, with nothing in it that was not found."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from snnconv.analysis.explanation import explain_run
from snnconv.analysis.spike_trains import SHOWN, spike_trains
from snnconv.conversion.methods import burst, parallel, qcfs, signed, srp, st_bif
from snnconv.data.splits import Splits
from snnconv.results import confusion
from snnconv.results.page import learning
from snnconv.results.report import report
from snnconv.results.summary import shown_timesteps
from snnconv.spiking import confusion as spiking_confusion
from snnconv.spiking.accuracy import accuracy_over_time
from snnconv.spiking.layers import list_layers
from snnconv.spiking.measured import measured
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.tasks import CLASSIFY

METHODS = {
    "qcfs": lambda ann: qcfs.convert(ann, [], neuron=IntegrateFire),
    "srp": lambda ann: srp.convert(ann, [], warmup=2),
    "parallel": lambda ann: parallel.convert(ann, []),
    "signed": lambda ann: signed.convert(ann, [], negative=1e-3, v_initial=0.5),
    "burst": lambda ann: burst.convert(ann, [], gamma=2),
    "st_bif": lambda ann: st_bif.convert(ann, []),
}


class Page(HTMLParser):
    """Refuses tags that are not closed in order; keeps what the page refers to, its headings and its text."""

    ALONE = ("meta", "link", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.addresses, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in self.ALONE:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag == "img":
            assert dict(attrs)["alt"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def data(tiny_batches):
    return Splits(train=tiny_batches(16), valid=tiny_batches(0), calibration=tiny_batches(12), test=tiny_batches(8))


@pytest.fixture
def costs(compose_config):
    return instantiate(compose_config().costs, _convert_="object")


@pytest.fixture
def write(fresh_network, open_tiny_run, data, costs, compose_config):
    """write("qcfs", …) → the page of a run, as text."""

    def make(
        method: str, *overrides: str, images: int = 12, timesteps: int = 4, name: str = "run", explained="default"
    ) -> str:
        asked = instantiate(compose_config(f"explain={explained}").explain.disturbances)
        ann = fresh_network("residual").eval()
        run, snn = open_tiny_run(name, f"method={method}", *overrides), METHODS[method](ann)
        curve = accuracy_over_time(snn, data.test, timesteps)
        times = shown_timesteps(list(curve.correct))
        why = explain_run(ann, snn, data, times, images=images, costs=costs, disturbances=asked)
        layers = list_layers(snn, data.test, timesteps)
        report(run, snn, curve, measured(ann, data.test, CLASSIFY), None, why, layers=layers)
        return (run.folder / "report.html").read_text()

    return make


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m in ("qcfs", "signed") else pytest.mark.long) for m in METHODS]
)
def test_is_whole_and_alone(method, write):
    text = write(method)
    page = Page(text)
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)  # no other file, no network
    assert len(text) < 5_000_000
    assert not re.search(r"\bnan\b|undefined|None\b", re.sub(r"data:[^\"]*", "", text).partition("How to reproduce")[0])


@pytest.mark.long
def test_says_what_was_found(write):
    words = " ".join(Page(write("qcfs")).text)
    for heading in (
        "Accuracy against timesteps",
        "Why the accuracy differs",
        "Spikes",
        "Energy: an estimate",
        "How to reproduce",
    ):
        assert heading in words
    assert "T = 1:" in words
    assert "With more timesteps the accuracy approaches" in words
    assert "12 calibration images" in words
    for layer in ("2", "3.act1", "3.act2"):
        assert f" {layer} " in words
    assert "fp32_45nm" in words
    assert "levels: 8" in words


def test_without_images_there_is_nothing_to_explain(write):
    words = " ".join(Page(write("qcfs", images=0)).text)
    assert "Accuracy against timesteps" in words
    assert "Why the accuracy differs" not in words
    assert "Energy: an estimate" not in words


def test_a_method_without_a_mean_current_has_energy_but_no_errors(write):
    words = " ".join(Page(write("st_bif")).text)
    assert "Energy: an estimate" in words
    assert "Why the accuracy differs" not in words


@pytest.mark.long
def test_disturbed_images_where_they_were_asked_for(write):
    assert "Disturbed images" not in write("qcfs")
    words = " ".join(Page(write("qcfs", explained="robustness")).text)
    for name in ("clean", "noise 0.1", "blur 1 px", "FGSM 1/255"):
        assert name in words


def test_classes_and_layers(write, monkeypatch):
    """A matrix for few classes; for many, the most frequent mistakes."""
    words = " ".join(Page(write("qcfs", images=0)).text)
    assert "Test images by class (row) and prediction (column), at T = 4" in words
    assert "Accuracy of each class, T = 4" in words
    assert re.search(r"\b3\.act1\s+IntegrateFire\s+\d+(×\d+)*\s", words)
    for module in (spiking_confusion, confusion):
        monkeypatch.setattr(module, "WHOLE", 2)
    words = " ".join(Page(write("qcfs", images=0, name="many")).text)
    assert "The most frequent mistakes of the SNN at T = 4" in words
    assert "Accuracy of the classes that lose most, T = 4" in words
    assert "Test images by class" not in words


@pytest.mark.long
def test_compares_what_lies_in_the_run_folder(write):
    first = write("qcfs")
    assert "Methods on this network" not in first
    second = write("srp", name="run/evaluations/srp/now")
    assert re.search(r"<td>qcfs</td>\s*<td class=\"left\">plain</td>", second)
    assert re.search(r"<td>srp</td>\s*<td class=\"left\">pre-simulated τ=2</td>", second)


def test_a_folder_called_evaluations_need_not_be_one_of_a_run(write):
    write("qcfs", name="other/run", images=0)
    assert "Methods on this network" not in write("srp", name="evaluations/run", images=0)


def test_the_same_network_quantized_stands_in_the_page(write, tmp_path):
    assert "The same network, quantized" not in write("qcfs", images=0)
    found = {
        "baseline": "qat", "settings": {}, "accuracy": 0.75, "ann_accuracy": 0.8125, "weight_bits": 4, "activation_bits": 2,
        "size_bytes": 3072, "images_tested": 8, "model": "mlp", "data": "synthetic", "levels": 4, "seed": 0,
        "precision": "float32", "wall_seconds": {},
    }  # fmt: skip
    for name, energy in {"one": {"fp32_45nm": 2.5e6}, "two": None}.items():
        (tmp_path / "run" / name).mkdir()
        (tmp_path / "run" / name / "baseline.json").write_text(
            json.dumps({**found, "seed": len(name), "energy": energy})
        )
    words = " ".join(" ".join(Page(write("qcfs", images=0)).text).split())
    assert "The same network, quantized" in words
    assert "qat W4A2 75.00 +6.25 3.0" in words


def test_words_of_the_user_are_words(write):
    text = write("qcfs", "names.model='<script>alert(1)</script>'")
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_validation_images_come_first(fresh_network, data, costs, tiny_batches):
    ann = fresh_network("residual").eval()
    snn = METHODS["qcfs"](ann)
    assert explain_run(ann, snn, data, [1], images=5, costs=costs).role == "calibration"
    found = explain_run(ann, snn, replace(data, valid=tiny_batches(8)), [1], images=5, costs=costs)
    assert (found.role, found.images, found.errors.images) == ("valid", 5, 5)


def test_trains_are_the_spikes_of_the_first_image(fresh_network, tiny_batches):
    snn = METHODS["qcfs"](fresh_network("residual").eval())
    batches = tiny_batches(4)
    trains = spike_trains(snn, batches, 6)
    assert list(trains) == ["2", "3.act1", "3.act2"]
    for path, spikes in trains.items():
        assert spikes.shape[0] == 6
        assert 0 < spikes.shape[1] <= SHOWN
        assert set(spikes.unique().tolist()) <= {0.0, 1.0}
        seen = []
        handle = snn.neurons()[path].node.register_forward_hook(
            lambda m, i, o, seen=seen: seen.append(o[:1].flatten(1))
        )
        snn(next(iter(batches))[0][:1], 6)
        handle.remove()
        every = torch.cat(seen)
        assert {tuple(train) for train in spikes.T.tolist()} <= {tuple(train) for train in every.T.tolist()}


def test_what_cannot_be_explained_does_not_lose_the_result(fresh_network, data, costs, caplog):
    """Spikes that reflection doubles at the border are not counted."""
    ann = fresh_network("residual").eval()
    ann[4] = nn.Sequential(nn.ReflectionPad2d(1), nn.AdaptiveAvgPool2d(1))
    assert explain_run(ann, METHODS["qcfs"](ann), data, [1], images=5, costs=costs) is None
    assert (
        "report.html has no explanation: 4.0 (ReflectionPad2d): operations after it cannot be counted for spikes"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("explain.images=-1", "explain.images=-1: must be an integer of at least 0"),
        ("explain.images=abc", "explain.images='abc': must be an integer"),
        ("explain.images=1e9", "explain.images=1000000000.0: must be an integer"),
        ("costs=[]", "costs: no table"),
        ("explain.first_layer=never", "explain.first_layer='never': must be every_step or once"),
    ],
)
def test_mistakes_are_told_before_anything_takes_long(compose_config, override, message, unchecked):
    with pytest.raises(InstantiationException) as error:
        instantiate(compose_config(override).explain)
    assert message in str(error.value.__cause__)


def test_learning_curves_of_a_training(write, tmp_path):
    assert "Training" not in Page(write("qcfs", images=0)).text
    rows = [
        {"epoch": e, "loss": 1 / (1 + e), "train_accuracy": 0.5 + e / 10, "valid_accuracy": 0.4, "lr": 0.1}
        for e in (0, 1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert learning(tmp_path)["learning"].startswith("data:image/svg")
    (tmp_path / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert learning(tmp_path) == {}  # one point is no curve
