"""The fastest settings of a training: measured, stored, and without a change of the network."""

import copy
from dataclasses import asdict

import pytest
import torch
from torch import nn

from snnconv.data.batches import Batches
from snnconv.nn.activations.qcfs import QCFS
from snnconv.runtime import files
from snnconv.runtime.run import Run
from snnconv.training import tune as tune_module
from snnconv.training.loop import fit
from snnconv.training.quantized_weights import Weights
from snnconv.training.settings import Fit
from snnconv.training.tune import Tuning, as_facts, tune

FIT = Fit(epochs=100, lr=0.1, batch_size=4, tune="auto")


@pytest.fixture
def train():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (16, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return Batches(images, torch.arange(16) % 3, 4, [0.5] * 3, [0.5] * 3, shuffle=True)


@pytest.fixture
def ann():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), QCFS(4, 8.0), nn.AvgPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), QCFS(4, 8.0), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    """Every training is worth a measurement; what is fast is said by the test: clock(lambda tuning: seconds)."""
    monkeypatch.setattr(tune_module, "FEW", 0)
    monkeypatch.setattr(tune_module, "SHORT", 0.0)
    monkeypatch.setattr(tune_module, "SHORT_TO_COMPILE", 0.0)
    measured = tune_module._Trial.seconds

    def install(seconds):
        def told(self, tuning):
            if not tuning.compile:
                measured(self, tuning)  # what a step does to the network, happens
            return seconds(tuning)

        monkeypatch.setattr(tune_module._Trial, "seconds", told)

    return install


def test_the_fastest_is_chosen(ann, train, clock, monkeypatch):
    clock(lambda t: 10 - t.channels_last - 2 * t.compile - (t.precision == "bf16") - len(t.products))
    monkeypatch.setattr(tune_module, "_gains", lambda conv, shape, tuning: shape[2:] == (2, 2))
    chosen = tune(ann, train, FIT, Weights(), None)
    assert chosen == Tuning(True, True, "float32", torch.get_num_threads(), {"4": [2, 2]})
    allowed = tune(ann, train, Fit(epochs=100, lr=0.1, tune_precision=True, batch_size=4), Weights(), None)
    assert allowed.precision == "bf16"
    assert allowed.settings(FIT) == Fit(
        epochs=100, lr=0.1, batch_size=4, tune="auto", channels_last=True, compile=True, precision="bf16"
    )


def test_what_is_not_faster_is_not_taken(ann, train, clock, monkeypatch):
    clock(lambda t: 10 + t.channels_last + t.compile)
    monkeypatch.setattr(tune_module, "_gains", lambda conv, shape, tuning: False)
    assert tune(ann, train, FIT, Weights(), None) == Tuning(False, False, "float32", torch.get_num_threads())


def test_compiled_code_hides_the_layers_that_a_teacher_looks_at(ann, train, clock, monkeypatch):
    clock(lambda t: 10 - 2 * t.compile)
    monkeypatch.setattr(tune_module, "_gains", lambda conv, shape, tuning: False)
    settings = Fit(epochs=100, lr=0.1, batch_size=4, teacher="runs/teacher", distill_layers=1.0)
    assert not tune(ann, train, settings, Weights(), None).compile


def test_the_measurement_leaves_no_trace(ann, train, clock):
    clock(lambda t: 10 - t.channels_last)
    before, rng = copy.deepcopy(ann.state_dict()), torch.get_rng_state()
    ann.eval()
    assert tune(ann, train, FIT, Weights(bits=4), None) is not None
    for name, tensor in ann.state_dict().items():
        assert tensor.equal(before[name]), name
    assert not ann.training
    assert all(parameter.grad is None for parameter in ann.parameters())
    assert torch.get_rng_state().equal(rng)
    assert not any("_conv_forward" in module.__dict__ or module._forward_pre_hooks for module in ann.modules())


def test_really_measured(ann, train, monkeypatch):
    monkeypatch.setattr(tune_module, "FEW", 0)
    monkeypatch.setattr(tune_module, "SHORT", 0.0)
    chosen = tune(ann, train, FIT, Weights(), None)
    assert not chosen.compile  # a training of seconds
    assert set(chosen.products) <= {"0", "4"}


@pytest.mark.parametrize("settings", [FIT, Fit(epochs=100, lr=0.1, batch_size=4, tune="none")])
def test_short_trainings_pay_nothing(ann, train, settings, monkeypatch):
    monkeypatch.setattr(tune_module._Trial, "seconds", lambda self, tuning: 0.001)
    monkeypatch.setattr(tune_module._Trial, "faster", None)
    assert tune(ann, train, settings, Weights(), None) is None


def test_few_steps_are_not_even_measured(ann, train, monkeypatch):
    monkeypatch.setattr(tune_module._Trial, "seconds", None)
    assert tune(ann, train, Fit(epochs=2, lr=0.1, batch_size=4), Weights(), None) is None


def test_a_resumed_training_runs_as_before(ann, train, monkeypatch):
    monkeypatch.setattr(tune_module._Trial, "seconds", None)
    tuning = Tuning(True, False, "float32", 2, {"4": [2, 2]})
    assert tune(ann, train, FIT, Weights(), {"epoch": 3, **as_facts(tuning)}) == tuning
    assert tune(ann, train, FIT, Weights(), {"epoch": 3}) is None


def test_applied(ann):
    threads = torch.get_num_threads()
    with Tuning(True, False, "float32", threads + 1, {"4": [2, 2]}).applied(ann):
        assert torch.get_num_threads() == threads + 1
    assert torch.get_num_threads() == threads
    assert ann[4].weight.is_contiguous(memory_format=torch.channels_last)
    assert ["_conv_forward" in ann[layer].__dict__ for layer in (0, 4)] == [False, True]


def test_facts_are_plain():
    tuning = Tuning(True, False, "float32", 2, {"4": [2, 2]})
    assert as_facts(tuning) == {"tuning": asdict(tuning)}
    assert as_facts(None) == {}
    assert str(tuning) == "2 threads, float32, channels_last, small convolutions as products: 1"


class Interrupted(Run):
    """A run that is killed after its second epoch."""

    def save_state(self, state):
        super().save_state(state)
        if state["epoch"] == 2:
            raise KeyboardInterrupt


def test_a_resumed_run_keeps_its_tuning_and_its_numbers(ann, train, open_tiny_run, monkeypatch):
    """Bit for bit, wherever it goes on and whatever would be chosen there; the choice is in ann.json."""
    monkeypatch.setattr(tune_module, "FEW", 0)
    settings = Fit(epochs=4, lr=0.05, batch_size=4)
    tuning = Tuning(True, False, "bf16", torch.get_num_threads(), {"4": [2, 2]})
    monkeypatch.setattr(tune_module, "_choose", lambda *arguments: tuning)
    whole, broken = open_tiny_run("whole"), open_tiny_run("broken", kind=Interrupted)
    networks = [copy.deepcopy(ann) for _ in range(3)]
    torch.manual_seed(7)
    fit(networks[0], train, train, settings, whole)
    torch.manual_seed(7)
    with pytest.raises(KeyboardInterrupt):
        fit(networks[1], train, train, settings, broken)
    monkeypatch.setattr(tune_module, "_choose", lambda *arguments: Tuning(False, False, "float32", 1))
    fit(networks[2], train, train, settings, open_tiny_run("broken"))
    for name, tensor in networks[0].state_dict().items():
        assert tensor.equal(networks[2].state_dict()[name]), name
    for run in (whole, broken):
        assert Tuning(**files.read_json(run.folder / "ann.json")["tuning"]) == tuning
        assert run.network()["tuning"] == asdict(tuning)
    assert not networks[0][4].weight.equal(ann[4].weight)
