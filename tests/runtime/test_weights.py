"""Weights in the wrappings of other programs: read under the network's names, or refused with the true reason."""

import argparse
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from snnconv.nn.activations.qcfs import QCFS
from snnconv.runtime.weight_files import read_weights
from snnconv.runtime.weights import filled


class Small(nn.Module):
    def __init__(self, activation=nn.ReLU) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), activation())
        self.head = nn.Linear(8, 3)


@pytest.fixture
def weights():
    torch.manual_seed(1)
    network = Small()
    network.features[1].running_var.uniform_(0.5, 2)
    return network.state_dict()


def prefixed(prefix: str, weights) -> OrderedDict:
    return OrderedDict((prefix + name, tensor) for name, tensor in weights.items())


WRAPPINGS = {
    "plain": lambda s: s,
    "DataParallel": lambda s: prefixed("module.", s),
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "compiled DataParallel": lambda s: prefixed("_orig_mod.module.", s),
    "DataParallel compiled": lambda s: prefixed("module._orig_mod.", s),
    "twice": lambda s: prefixed("module.module.", s),
    "a part in DataParallel": lambda s: {n.replace("features.", "features.module."): t for n, t in s.items()},
    "Lightning": lambda s: {"state_dict": prefixed("model.", s), "epoch": 3, "pytorch-lightning_version": "2.0"},
    "Lightning, compiled": lambda s: {"state_dict": prefixed("model._orig_mod.", s)},
    "a prefix of one's own": lambda s: prefixed("student.net.", s),
    "a NumPy scalar": lambda s: {"state_dict": s, "best_acc1": np.float64(97.2), "epoch": np.int64(3)},
    "settings of a command line": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)},
    "averaged": lambda s: {"epoch": 1, "state_dict_ema": s, "optimizer": {"lr": 0.1}},
    "pairs": lambda s: list(s.items()),
    "counted by thop": lambda s: {**s, "total_ops": torch.zeros(1), "features.0.total_params": torch.zeros(1)},
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_wrappings_of_other_programs_are_taken_off(wrap, weights, tmp_path: Path):
    torch.save(wrap(weights), tmp_path / "net.pth")
    network = filled(Small(), tmp_path / "net.pth")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("word", ["thresh", "up"])
def test_thresholds_of_the_repositories_of_qcfs(word, weights, tmp_path: Path):
    """These repositories store θ as a parameter [1] of the activation."""
    torch.save({**weights, f"features.2.{word}": torch.tensor([1.25])}, tmp_path / "net.pth")
    network = filled(Small(lambda: QCFS(4, 8.0)), tmp_path / "net.pth")
    assert network.features[2].threshold.item() == 1.25
    assert torch.equal(network.head.weight, weights["head.weight"])


def test_a_network_whose_own_names_look_like_wrappings(tmp_path: Path):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    network = Wrapped()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    assert torch.equal(filled(Wrapped(), tmp_path / "net.pth").module.weight, network.module.weight)


REFUSED = {
    "NaN": (lambda s: {**s, "head.bias": s["head.bias"] * torch.nan}, r"head\.bias contains NaN or infinite values"),
    "infinite": (lambda s: {**s, "head.bias": s["head.bias"] + torch.inf}, r"head\.bias contains NaN or infinite values"),
    "variance": (
        lambda s: {**s, "features.1.running_var": -s["features.1.running_var"]},
        r"features\.1\.running_var contains negative variances",
    ),
    "a whole network": (lambda s: Small(), r"contains an object of \S+Small in addition to tensors, which could run code"),
    "no weights": (lambda s: {"optimizer": {"lr": 0.1}, "epoch": 1}, "contains the keys optimizer, epoch, expected a state dict"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_with_the_reason(content, message, weights, tmp_path: Path):
    torch.save(content(weights), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=rf"net\.pth: {message}"):
        filled(Small(), tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Virus scan warning</html>", "a web page instead of the downloaded file"),
        (b"PK\x03\x04 cut off", r"damaged \(\w+\)"),
    ],
)
def test_files_that_are_something_else_are_told(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(ValueError, match=rf"net\.pth: {message}; expected"):
        read_weights(tmp_path / "net.pth")


class Explosive:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self):
        return subprocess.call, (["touch", str(self.flag)],)


def test_nothing_is_run(weights, tmp_path: Path):
    torch.save({"state_dict": weights, "best": Explosive(tmp_path / "flag")}, tmp_path / "net.pth")
    with pytest.raises(
        ValueError, match=r"contains an object of \w+\.call in addition to tensors, which could run code"
    ):
        read_weights(tmp_path / "net.pth")
    assert not (tmp_path / "flag").exists()
