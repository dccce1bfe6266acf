"""`import snnconv`: every public name is there, documented, and costs nothing before it is used."""

import doctest
import importlib
import inspect
import subprocess
import sys

import pytest
import torch

import snnconv

FUNCTIONS = [name for name in snnconv._HOMES if inspect.isfunction(getattr(snnconv, name))]


def test_every_name_of_the_front_door_is_there():
    wanted = {
        "prepare", "fit", "check", "convert", "accuracy", "accuracy_over_time", "over_time", "finetune", "explain", "energy",
        "export", "save", "load", "methods", "SpikingModel", "Latency", "Curve", "__version__",
    }  # fmt: skip
    assert wanted <= set(dir(snnconv))
    for name in wanted:
        assert getattr(snnconv, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'konvert'"):
        _ = snnconv.konvert


@pytest.mark.parametrize("name", FUNCTIONS)
def test_its_docstring_has_an_example_that_runs(name):
    home = importlib.import_module(f"snnconv.{snnconv._HOMES[name]}")
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(home, name), name, module=home)
    assert test.examples, f"{name}: no example"
    torch.manual_seed(0)
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(test)
    assert results.failed == 0


def test_importing_it_loads_nothing_heavy():
    code = "import sys, snnconv; print([m for m in ('torch', 'wandb', 'hydra', 'matplotlib', 'spikingjelly') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
