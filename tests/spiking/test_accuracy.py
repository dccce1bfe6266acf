"""Accuracy is counted, image by image; an evaluation neither changes nor misses anything."""

import time
from functools import partial

import pytest
import torch
from torch import nn

from snnconv.conversion.methods.qcfs import convert
from snnconv.data.batches import Batches
from snnconv.runtime import distributed
from snnconv.spiking.accuracy import accuracy, accuracy_over_time, over_time
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.simulation import Timing
from snnconv.spiking.tasks import running_mean


class Says(nn.Module):
    """Predicts the class that the first pixel names."""

    def forward(self, images):
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), 4).float()


def pixels(classes: list[int], labels: list[int], batch_size: int) -> Batches:
    images = torch.tensor(classes, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Batches(images, torch.tensor(labels), batch_size, mean=[0.0], std=[1 / 255])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_accuracy_by_hand(batch_size):
    """Three of five, also where the last batch is smaller."""
    assert accuracy(Says(), pixels([0, 1, 2, 3, 0], [0, 1, 1, 3, 2], batch_size)) == 3 / 5


@pytest.mark.parametrize("training", [True, False])
def test_accuracy_looks_in_eval_mode_and_restores_the_mode(training):
    class Watch(Says):
        def forward(self, images):
            assert not self.training
            assert not torch.is_grad_enabled()
            return super().forward(images)

    network = Watch().train(training)
    accuracy(network, pixels([0, 1], [0, 1], 1))
    assert network.training is training


@pytest.fixture
def snn(exact_network) -> SpikingModel:
    return convert(exact_network("plain"), [], neuron=IntegrateFire)


@pytest.fixture
def test_set(tiny_batches) -> Batches:
    return tiny_batches(11, batch_size=4)


def test_the_curve_counts_every_image_at_every_t(snn, test_set):
    curve = accuracy_over_time(snn, test_set, 6)
    expected = {}
    for t in range(1, 7):
        means = [(snn(images, t).double().mean(0), labels) for images, labels in test_set]
        expected[t] = sum((mean.argmax(1) == labels).sum().item() for mean, labels in means)
    assert curve.correct == expected
    assert curve.images == 11
    assert curve.accuracy == {t: correct / 11 for t, correct in expected.items()}


def test_listed_timesteps_are_points_of_the_whole_curve(snn, test_set):
    whole = accuracy_over_time(snn, test_set, 8).correct
    assert accuracy_over_time(snn, test_set, [8, 2, 2, 5]).correct == {t: whole[t] for t in (2, 5, 8)}


def record_runs(snn: SpikingModel) -> list[int]:
    runs, forward = [], snn.forward
    snn.forward = lambda images, timesteps: runs.append(timesteps) or forward(images, timesteps)
    return runs


def test_a_timestep_that_was_not_measured_is_told_with_those_that_were(snn, test_set):
    curve = accuracy_over_time(snn, test_set, [2, 5])
    with pytest.raises(KeyError, match=r"9: accuracy was not measured .* measured were 2, 5"):
        curve.accuracy[9]
    assert curve.accuracy == dict(curve.accuracy)
    many = accuracy_over_time(snn, test_set, 12)
    with pytest.raises(KeyError, match="measured were 1 to 12, 12 values"):
        many.accuracy[13]


def test_an_anytime_model_runs_once_any_other_once_for_every_t(snn, test_set):
    runs = record_runs(snn)
    once = accuracy_over_time(snn, test_set, 4)
    assert runs == [4] * 3  # batches
    runs.clear()
    snn.timing = Timing(anytime=False)
    often = accuracy_over_time(snn, test_set, 4)
    assert runs == [t for t in (1, 2, 3, 4) for _ in range(3)]
    assert often.correct == once.correct


def test_what_a_method_does_for_each_t_is_no_simulation(snn, test_set):
    def slow(timesteps: int):
        time.sleep(0.2)
        return network

    network = snn.network
    slowly = SpikingModel(network, timing=Timing(anytime=False), for_timesteps=slow)
    start = time.perf_counter()
    curve = accuracy_over_time(slowly, test_set, [1, 2])
    assert curve.prepare_seconds >= 0.4
    assert curve.seconds + curve.prepare_seconds <= time.perf_counter() - start


def test_readout_from_leaves_out_the_first_steps(snn, test_set):
    snn.latency = Latency(readout_from=3)
    curve = accuracy_over_time(snn, test_set, 5)
    logits = torch.cat([snn(images, 5) for images, _ in test_set], dim=1)
    hits = (running_mean(logits, 3).argmax(-1) == test_set.labels).sum(1)
    assert list(curve.correct.values()) == hits.tolist()


def test_firing_rates_by_hand():
    """θ = 1, T = 4: of two neurons one fires at every second step, one every fourth."""
    from snnconv.nn.activations.qcfs import QCFS

    ann = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), QCFS(4, 1.0), nn.Linear(2, 2))
    ann[1].weight.data, ann[1].bias.data = torch.tensor([[0.5], [0.25]]), torch.zeros(2)
    curve = accuracy_over_time(convert(ann, [], neuron=IntegrateFire), pixels([1, 1, 1], [0, 0, 0], 2), 4)
    assert list(curve.firing_rate.values()) == [3 / 8]
    assert curve.mean_firing_rate == 3 / 8


@pytest.mark.parametrize("timesteps", [0, [], [0, 4], -3])
def test_at_least_one_timestep(snn, test_set, timesteps):
    with pytest.raises(ValueError, match="at least 1"):
        accuracy_over_time(snn, test_set, timesteps)


def test_two_processes_count_what_one_counts(snn, test_set, monkeypatch):
    """Each takes every second image; the sums over ranks are exact."""
    whole = accuracy_over_time(snn, test_set, 3)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(accuracy_over_time(snn, test_set, 3))
    assert sum(share.images for share in shares) == whole.images == 11
    assert {t: sum(share.correct[t] for share in shares) for t in (1, 2, 3)} == whole.correct


# any loader, any metric


@pytest.fixture
def pairs(test_set):
    return [(images.clone(), labels.clone()) for images, labels in test_set]


def test_any_iterable_is_a_loader(snn, test_set, pairs):
    images, labels = (torch.cat(part) for part in zip(*pairs, strict=True))
    loaders = [
        lambda: pairs,
        lambda: iter(pairs),
        lambda: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=3),
        lambda: (images, labels),
    ]
    expected, ann = accuracy_over_time(snn, test_set, 4).correct, accuracy(snn, test_set)
    for make in loaders:
        assert accuracy_over_time(snn, make(), 4).correct == expected
        assert accuracy(snn, make()) == ann


def test_the_accuracy_of_a_spiking_model_is_at_its_own_t(snn, test_set):
    snn.timesteps = 3
    assert accuracy(snn, test_set) == accuracy_over_time(snn, test_set, 3).accuracy[3]


def test_without_images_there_is_no_accuracy(snn):
    for measure in (
        accuracy,
        partial(accuracy_over_time, timesteps=2),
        partial(over_time, metric=torch.sub, timesteps=2),
    ):
        with pytest.raises(ValueError, match="the loader returned no images"):
            measure(snn, [])


class Counting:
    """Protocol of torchmetrics: right and all."""

    def __init__(self):
        self.right = self.all = 0

    def update(self, outputs, targets):
        self.right += (outputs.argmax(-1) == targets).sum()
        self.all += len(targets)

    def compute(self):
        return self.right / self.all


@pytest.mark.parametrize("anytime", [True, False])
def test_a_metric_over_time(snn, pairs, anytime):
    snn.timing = Timing(anytime=anytime)
    expected = pytest.approx(accuracy_over_time(snn, pairs, 4).accuracy)
    metric = Counting()
    assert over_time(snn, pairs, metric, 4) == expected
    assert metric.all == 0  # each t has a copy of its own
    assert over_time(snn, pairs, lambda outputs, targets: (outputs.argmax(-1) == targets).float().mean(), 4) == expected
    assert list(over_time(snn, pairs, Counting(), [4, 2])) == [2, 4]


def test_a_metric_of_torchmetrics_over_time(snn, pairs):
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = torchmetrics.Accuracy(task="multiclass", num_classes=snn(pairs[0][0], 1).shape[-1])
    assert over_time(snn, pairs, metric, 3) == pytest.approx(accuracy_over_time(snn, pairs, 3).accuracy)


def test_a_curve_prints_as_a_table_and_plots(snn, pairs):
    curve = accuracy_over_time(snn, pairs, 20)
    lines = str(curve).splitlines()
    assert [line.split()[0] for line in lines] == ["T", "1", "2", "4", "8", "16", "20"]
    assert f"{100 * curve.accuracy[20]:.2f}" in lines[-1]
    assert curve.as_dict()["accuracy"] == curve.accuracy
    assert curve.plot().lines[0].get_xdata().tolist() == list(range(1, 21))
