"""`fit` from a Python program: the loop of train.py, without a run folder."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from snnconv.data.loaders import Loader
from snnconv.training import loop
from snnconv.training.fitting import fit
from snnconv.training.settings import Fit

pytestmark = pytest.mark.usefixtures("unchecked")  # loaders, where annotations say Batches
SETTINGS = {"epochs": 3, "lr": 0.05, "verbose": False}


@pytest.fixture
def batches(tiny_batches):
    return list(tiny_batches(32, 8))


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_it_is_the_loop_of_a_run(fresh_network, batches, open_tiny_run, tiny_batches):
    ours, runs = fresh_network(), fresh_network()
    torch.manual_seed(3)
    history = fit(ours, batches, batches[:2], **SETTINGS)
    torch.manual_seed(3)
    run = open_tiny_run()
    loop.fit(runs, Loader(batches, "cpu"), Loader(batches[:2], "cpu"), Fit(epochs=3, lr=0.05), run)
    assert same(ours, runs)
    assert history.kept["valid_accuracy"] == run.best()["valid_accuracy"] == max(history["valid_accuracy"])
    assert [set(row) for row in history.rows] == [
        {"epoch", "loss", "train_accuracy", "valid_accuracy", "lr", "seconds", "thresholds"}
    ] * 3


def test_without_validation_the_last_epoch_is_kept(fresh_network, batches):
    history = fit(ann := fresh_network(), batches, **SETTINGS)
    assert history.kept == {"epoch": 3}
    assert not ann.training
    assert history["loss"][-1] < history["loss"][0]


def test_a_loader_of_torch_and_a_list_train_the_same(fresh_network, batches):
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    networks = [fresh_network(), fresh_network()]
    for network in networks:
        network[8].p = 0.0  # a DataLoader draws a number of its own
    for network, data in zip(networks, (batches, DataLoader(TensorDataset(images, labels), 8)), strict=True):
        fit(network, data, seed=1, **SETTINGS)
    assert same(*networks)


def test_every_epoch_prints_a_line(fresh_network, batches, capsys):
    fit(fresh_network(), batches, epochs=2, lr=0.05)
    assert [line.split("  ")[0] for line in capsys.readouterr().out.split("\n") if line.strip()] == [
        "epoch 1/2",
        "epoch 2/2",
    ]
    fit(fresh_network(), batches, **SETTINGS)
    assert capsys.readouterr().out == ""
    assert not loop.log.handlers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "fit: has no setting 'epoch'; did you mean"),
        ({"momentum": 2.0}, "fit.momentum=2.0"),
        ({"select": "best"}, "fit.select=best: needs data"),
        ({"precision": "fp8"}, "fit.precision='fp8'"),
    ],
)
def test_wrong_settings_are_named(settings, message, fresh_network, batches):
    with pytest.raises(ValueError, match=message):
        fit(fresh_network(), batches, **SETTINGS, **settings)


def test_data_that_come_once_are_refused(fresh_network, batches):
    with pytest.raises(ValueError, match="train: an iterator can be read only once"):
        fit(fresh_network(), iter(batches), **SETTINGS)


def test_a_half_trained_network_is_trained_further(fresh_network, batches):
    ann = fresh_network()
    fit(ann, batches, **SETTINGS)
    before = copy.deepcopy(ann)
    fit(ann, batches, **SETTINGS)
    assert not same(ann, before)
