"""Confusion counts what a slow loop counts; layers are listed as they are computed."""

from collections import Counter
from itertools import islice

import pytest
import torch
from torch import nn

from snnconv.conversion.methods import burst, parallel, qcfs, signed, srp
from snnconv.conversion.registry import convert
from snnconv.spiking.accuracy import accuracy, accuracy_over_time
from snnconv.spiking.confusion import WHOLE, Counts
from snnconv.spiking.layers import list_layers
from snnconv.spiking.measured import measured
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.tasks import CLASSIFY, Regress


@pytest.mark.parametrize("classes", [3, WHOLE, WHOLE + 1, 40])
def test_counts_are_those_of_a_loop(classes):
    torch.manual_seed(classes)
    outputs, labels = torch.rand(300, classes), torch.randint(classes, (300,))
    counts = Counts(CLASSIFY)
    for part in range(0, 300, 70):
        counts.add(outputs[part : part + 70], labels[part : part + 70])
    confusion = counts.total(len(labels))
    predicted = [row.index(max(row)) for row in outputs.tolist()]
    pairs = Counter((label, guess) for label, guess in zip(labels.tolist(), predicted, strict=True))
    assert confusion.right == [pairs[k, k] for k in range(classes)]
    assert confusion.images == [sum(n for (label, _), n in pairs.items() if label == k) for k in range(classes)]
    wrong = {pair: n for pair, n in pairs.items() if pair[0] != pair[1]}
    assert {(label, guess): n for label, guess, n in confusion.wrong}.items() <= wrong.items()
    numbers = [n for _, _, n in confusion.wrong]
    assert numbers == sorted(wrong.values(), reverse=True)[: WHOLE if classes > WHOLE else None]


def test_other_tasks_have_no_confusion():
    counts = Counts(Regress())
    counts.add(torch.rand(4, 3), torch.rand(4, 3))
    assert counts.total(4) is None


@pytest.mark.parametrize("label", [-1, 3])
def test_a_target_that_is_no_class_is_an_error(label):
    """It would count as a wrong prediction."""
    batch = [(torch.rand(4, 3), torch.tensor([0, 1, 2, label]))]
    with pytest.raises(ValueError, match="1 of 4 targets are no class of the network, which has 3 outputs"):
        accuracy(nn.Identity(), batch)


def test_confusion_agrees_with_accuracy(fresh_network, tiny_batches):
    ann, batches = fresh_network("residual").eval(), tiny_batches(30)
    curve = accuracy_over_time(qcfs.convert(ann, [], neuron=IntegrateFire), batches, 6)
    reached = measured(ann, batches, CLASSIFY)
    for confusion, fraction in ((curve.confusion, curve.accuracy[6]), (reached.confusion, reached.accuracy)):
        assert sum(confusion.right) / 30 == fraction
        assert sum(confusion.images) == sum(confusion.right) + sum(n for *_, n in confusion.wrong) == 30


def test_rates_up_to_t_are_spikes_of_all_neurons(fresh_network, tiny_batches):
    snn = srp.convert(fresh_network("residual").eval(), [], warmup=2)
    curve = accuracy_over_time(snn, tiny_batches(8), 4)
    neurons = curve.spikes[4] / (curve.rates[4].mean * (2 + 4))
    for t, rates in curve.rates.items():
        assert curve.spikes[t] == pytest.approx(rates.mean * neurons * (2 + t))
    assert curve.rates[4].layers == curve.firing_rate
    assert curve.rates[4].mean == pytest.approx(curve.mean_firing_rate)


@pytest.mark.parametrize("method", [qcfs, srp, parallel, signed, burst])
def test_layers_in_the_order_of_computation(method, fresh_network, tiny_batches):
    settings = {srp: {"warmup": 2}, signed: {"negative": 1e-3, "v_initial": 0.5}, burst: {"gamma": 2}}
    settings[qcfs] = {"neuron": IntegrateFire}
    snn = method.convert(fresh_network("residual").eval(), [], **settings.get(method, {}))
    before = {name: tensor.clone() for name, tensor in snn.state_dict().items()}
    rows = list_layers(snn, tiny_batches(3), 4)
    assert [row["path"] for row in rows if row["threshold"]] == ["2", "3.act1", "3.act2"] == list(snn.neurons())
    parameters = sum(each.numel() for name, each in snn.network.named_parameters() if "neuron" not in name)
    assert sum(row["parameters"] for row in rows) == parameters
    assert rows[-1]["shape"] == [3]
    for row, neuron in zip([row for row in rows if row["threshold"]], snn.neurons().values(), strict=True):
        assert row["kind"] == type(neuron).__name__
        assert row["threshold"] == [float(torch.as_tensor(neuron.threshold).min())] * 2
    assert all(tensor.equal(before[name]) for name, tensor in snn.state_dict().items())


def test_operators_are_layers_and_hooks_are_removed():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3))
    batches = [(torch.rand(16, 4), torch.arange(16) % 3)]
    snn = convert(model, batches, method="max_norm")
    rows = list_layers(snn, batches, 2)
    assert [row["shape"] for row in rows if row["kind"] == "Linear"] == [[8], [6], [3]]
    assert [row["shape"] for row in rows if row["path"] in snn.operators()] == [[6]]
    assert not any(module._forward_hooks for module in snn.modules())
    assert list_layers(snn, islice(batches, 0), 2) == []
