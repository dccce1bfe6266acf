"""Benchmarks: how seconds, memory and ratios are taken, and that what they compare is the same computation."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from benchmarks import simulations, subjects, timing
from benchmarks.simulations import simulation
from benchmarks.subjects import NaiveQCFS, whole_curve
from benchmarks.timing import LiveBytes, Report, peak_memory, slope, timed

from snnconv.nn.activations.qcfs import QCFS

MIB = 2**20


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    """As everything that is compared here."""
    for module in (timing, subjects, simulations):
        monkeypatch.setattr(module, "DEVICE", "cpu")


def test_actions_run_in_turns_and_the_first_rounds_do_not_count(monkeypatch):
    seen, now = [], [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def action(name):
        seen.append(name)
        now[0] += len(seen)  # each call takes a second longer than the one before

    seconds = timed({name: partial(action, name) for name in ("a", "b")}, rounds=3, warmup=2)
    assert seen == ["a", "b"] * 5
    assert seconds == {"a": [5, 7, 9], "b": [6, 8, 10]}


def test_a_ratio_is_that_of_the_rounds_on_a_machine_that_drifts(monkeypatch, capsys):
    drifting = {"ann": [1.0, 10.0, 100.0], "snn": [2.0, 20.0, 300.0], "compiled": [1.0, 5.0, 50.0]}
    monkeypatch.setattr(timing, "timed", lambda actions, rounds, warmup: drifting)
    report = Report()
    actions = dict.fromkeys(drifting, lambda: None)
    returned = report.group("pace", actions, 3, images=40, floors={"compiled": "snn"}, memory={"snn": 7.0})
    assert returned == drifting
    assert {row["variant"]: (row["floor"], row["ratio"]) for row in report.rows} == {
        "ann": ("ann", 1.0), "snn": ("ann", 2.0), "compiled": ("snn", 0.25),
    }  # fmt: skip
    assert [row["images_per_second"] for row in report.rows] == [4.0, 2.0, 8.0]
    printed = capsys.readouterr().out
    assert [cell.strip() for cell in next(line for line in printed.splitlines() if "compiled" in line).split("│")] == [
        "", "compiled", "5.0000", "1.0000 … 50.0000", "0.250", "snn", "8", "", "",
    ]  # fmt: skip


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_the_exponent_of_a_power_law(exponent):
    xs = [3, 7, 20, 100]
    assert slope(xs, [0.2 * x**exponent for x in xs]) == pytest.approx(exponent, abs=1e-9)


def test_memory_is_the_most_that_lives_at_once():
    before = torch.zeros(MIB // 4)

    def action():
        a = before + 1  # 1 MiB
        b = torch.cat([a, a])  # 3 MiB
        del a  # 2 MiB
        c = b.view(2, -1).relu_()  # no memory of its own
        return c[0] + before  # 3 MiB

    assert peak_memory(action) == pytest.approx(3.0)
    with LiveBytes() as live:
        before.add_(1).view(2, -1)
    assert live.peak == 0


def test_the_naive_formula_is_qcfs():
    x = torch.linspace(-2.01, 12, 400, requires_grad=True)
    results = []
    for activation in (NaiveQCFS(8, 8.0), QCFS(8, 8.0)):
        x.grad = None
        y = activation(x)
        (y * torch.arange(400)).sum().backward()
        (theta,) = activation.parameters()
        results.append((y, x.grad, theta.grad))
    for naive, ours in zip(*results, strict=True):
        torch.testing.assert_close(naive, ours)


def test_simulations_that_are_compared_give_the_same_logits(unchecked):
    """SpikingJelly as a user writes it, step by step and layer by layer, against ours, dense or not."""
    outputs = {}
    for kind in ("ours", "ours-dense", "spikingjelly-s", "spikingjelly-m"):
        torch.manual_seed(1)
        logits = simulation("resnet20", 4, 4, kind)()
        outputs[kind] = logits.mean(0) if logits.dim() == 3 else logits
    for logits in outputs.values():
        assert logits.std() > 0
        torch.testing.assert_close(logits, outputs["spikingjelly-s"], rtol=1e-3, atol=1e-3)


def test_one_run_holds_every_shorter_one():
    curves = []
    for kind in ("ours", "one run per T"):
        torch.manual_seed(1)
        curves.append(whole_curve("mlp", 4, 3, kind)())
    whole, separate = curves
    for t, shorter in enumerate(separate, 1):
        torch.testing.assert_close(whole[:t], shorter)
