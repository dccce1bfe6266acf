"""A wrong network file is reported from its text."""

from pathlib import Path

import pytest

from snnconv.runtime.source_files import require_network

SOUND = """
from functools import partial

class Net: ...
def make(): ...
small = partial(make)
if True:
    class Inner: ...
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(SOUND)
    Path("broken.py").write_text("class Net(:\n    pass\n")
    Path("bytes.py").write_bytes(b"\x00\x01")
    Path("dynamic.py").write_text("globals()['Net'] = type('Net', (), {})")
    Path("all.py").write_text("from net import *")


def network(path: str, name: str = "Net", first: str = "model=custom") -> list[str]:
    return [first, f"model.path={path}", f"model.name={name}"]


@pytest.mark.parametrize(("arguments", "message"), [
    (network("net.py", "Nett"), r"net\.py: defines no class or function 'Nett' \(model\.name\); there are Net$"),
    (network("net.py", "x"), r"'x' \(model\.name\); there are Inner, Net, make, small$"),
    (network("broken.py"), r"broken\.py, line 1: invalid syntax \(model\.path\)"),
    (network("bytes.py"), r"bytes\.py.*null bytes"),
    (network("nowhere.py"), r"nowhere\.py: no such Python file \(model\.path\)"),
    (network("'a b.py'", first="run=runs/x"), r"a b\.py: no such Python file"),
])  # fmt: skip
def test_a_mistake_is_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        require_network(arguments)


@pytest.mark.parametrize("arguments", [
    *(network("net.py", name) for name in ("Net", "make", "small", "Inner")),
    network("dynamic.py"), network("all.py"), network("net.py,other.py"), network("${oc.env:NET}"), network("[x"),
    network("nowhere.pt", first="model=mine"), ["model=custom"], [],
])  # fmt: skip
def test_what_the_text_does_not_show_is_left_to_the_run(arguments):
    require_network(arguments)
