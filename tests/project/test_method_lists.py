"""Handwritten lists of methods are correct.  (A missing method is not an error.)"""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from torch import nn

from snnconv.conversion.registry import find
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.operators.base import Encoder

ROOT = Path(__file__).resolve().parents[2]


def takes(method: str) -> set[type]:
    """The kinds of activations that a method takes; both where it leaves that to another method."""
    return set(find(method).takes or (QCFS, nn.ReLU))


@pytest.mark.parametrize(("sweep", "kind"), [("methods_qcfs", QCFS), ("methods_relu", nn.ReLU)])
def test_a_sweep_over_methods_names_what_takes_the_network(sweep, kind):
    methods = OmegaConf.load(ROOT / "conf" / "sweep" / f"{sweep}.yaml").hydra.sweeper.params.method
    names = [name.strip() for name in methods.split(",")]
    assert len(set(names)) == len(names) > 10
    assert [name for name in names if kind not in takes(name)] == []


def test_the_page_of_methods_says_what_they_start_from():
    kinds = {
        "QCFS": {QCFS},
        "ReLU": {nn.ReLU},
        "both": {QCFS, nn.ReLU},
        "any": {QCFS, nn.ReLU, Encoder},
        "transformers": {Encoder},
    }
    rows = re.findall(
        r"^\| (QCFS|ReLU|both|any|transformers) \| [^|]+ \| ([^|]+) \|",
        (ROOT / "docs" / "methods.md").read_text(),
        re.MULTILINE,
    )
    listed = {name: kinds[start] for start, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert len(listed) > 20
    assert {name: takes(name) for name in listed} == listed
