"""Examples in docstrings are run; those of the public names in test_public_names.py."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import snnconv

ROOT = Path(snnconv.__file__).parents[1]
PUBLIC = {f"snnconv.{home}" for home in snnconv._HOMES.values()}
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "snnconv").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", [name.removesuffix(".__init__") for name in MODULES])
def test_examples_of_a_module_run(name):
    if name in PUBLIC:
        pytest.skip("has public names")
    torch.manual_seed(0)
    results = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert results.failed == 0
    assert results.attempted or name == "snnconv", "no example was found"
