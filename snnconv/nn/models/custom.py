"""A user's own network from a Python file, with its ReLUs replaced by an activation."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from snnconv.nn.graph.relus import replace_relus
from snnconv.runtime.weights import filled, forget_thresholds


def custom(
    path: str,
    name: str,
    num_classes: int,
    input_shape: Sequence[int],
    activation: Callable[[], nn.Module],
    arguments: Mapping[str, Any] | None = None,
    weights: str | None = None,
) -> nn.Module:
    """The network returned by `name` in the Python file `path`, with every ReLU replaced by `activation()`, and with `weights`.

    `name` is called with `arguments`, and with `num_classes` and `input_shape` if it has parameters of these names.  A network that
    cannot be traced symbolically is captured with one image of `input_shape`, in eval mode (`graph.relus`).  **The file is
    executed**: a stored run that names it is rebuilt only with trust=[path] (`runtime.trust.require_trusted`).
    """
    module = run_file(Path(path))
    make = getattr(module, name, None)
    if getattr(getattr(make, "func", make), "__module__", None) != module.__name__ or not callable(make):
        raise ValueError(f"{path}: defines no class or function {name!r} (model.name)")
    offered = {"num_classes": num_classes, "input_shape": tuple(input_shape)}
    asked = {key: value for key, value in offered.items() if key in inspect.signature(make).parameters}
    given = {**asked, **dict(arguments or {})}
    try:
        inspect.signature(make).bind(**given)
    except TypeError as error:
        raise ValueError(f"{path}: {name}(…): {error}; set model.arguments={{name: value, …}}") from error
    network = make(**given)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{path}: {name}(…) returns a {type(network).__name__}, expected an nn.Module")
    network = network.float()  # half precision is for training to choose (precision=…)
    example = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0))
    try:
        network = filled(network, weights)  # under its own names, of which the copy may have fewer
    except ValueError:  # they have thresholds, or fit neither
        return filled(replace_relus(network, activation, example), weights)
    network = replace_relus(network, activation, example)
    return forget_thresholds(network) if weights is not None else network


def run_file(path: Path) -> ModuleType:
    """The module that the python file `path` defines; it may import its neighbours."""
    if not path.is_file() or path.suffix != ".py":
        raise FileNotFoundError(f"{path}: no such Python file (model.path)")
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(f"snnconv_custom_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    hidden = _namesakes(path.parent)
    for name in hidden:
        del sys.modules[name]
    before = set(sys.modules)
    importlib.invalidate_caches()
    sys.modules[spec.name] = module  # torch.compile looks the functions' module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is the user's: anything can come out
        raise ValueError(f"{path}: raises an error when it is run ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove(str(path.parent))
        OF_USERS.update(name for name in set(sys.modules) - before if _file(name).is_relative_to(path.parent))
        sys.modules.update({name: other for name, other in hidden.items() if name not in OF_USERS})
    return module


OF_USERS: set[str] = set()  # names of modules that users' files imported from their own folders


def _namesakes(folder: Path) -> dict[str, ModuleType]:
    """Loaded modules that would be taken for neighbours of a file in `folder`, or are neighbours as they were before an edit."""
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    names -= {*sys.stdlib_module_names, "snnconv", "__main__"}
    loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
    return {
        name: module
        for name, module in loaded.items()
        if name in OF_USERS or not ({"site-packages"} & {*_file(name).parts} or _file(name).is_relative_to(folder))
    }


def _file(name: str) -> Path:
    """The file that the loaded module `name` was read from."""
    return Path(getattr(sys.modules[name], "__file__", None) or "/").resolve()
