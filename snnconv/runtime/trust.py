"""Classes and functions that a stored configuration may call, so that a run folder of another person runs no untrusted code."""

import functools
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from snnconv.runtime import program
from snnconv.runtime.user_files import USER_CODE

# What a stored configuration may build; the rest of snnconv writes files or starts programs.
ROOMS = tuple(
    f"snnconv.{room}"
    for room in (
        "nn.activations",
        "nn.models",
        "data",
        "spiking.neurons",
        "spiking.operators",
        "spiking.encoders",
        "spiking.tasks",
        "spiking.metrics",
        "conversion.methods",
        "conversion.calibration",
        "conversion.rules",
        "training.quantized_weights",
        "hardware.compression",
        "analysis.costs",
        "analysis.explanation",
        "analysis.robustness",
        "runtime.tracking",
        "runtime.wandb_tracking",
    )
)
# What a stored network may build.
NETWORK = ("snnconv.nn.activations", "snnconv.nn.models", "snnconv.hardware.compression.rebuild")
# Functions beside which other things stand that a stored configuration must not call: they start programs, or import by name.
ALONE = (
    "snnconv.training.settings.Fit",
    "snnconv.hardware.baselines.ptq.static",
    "snnconv.hardware.baselines.ptq.dynamic",
    "snnconv.hardware.baselines.qat.qat",
    "snnconv.hardware.export.c.export",
    "snnconv.hardware.export.nir.export",
    "snnconv.hardware.export.onnx.export",
    "snnconv.hardware.export.onnx_unrolled.export",
    "snnconv.hardware.export.verilog.export",
)


_granted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


@contextmanager
def trusting(trust: Sequence[str]) -> Iterator[None]:
    """Context in which `load_ann` also trusts these packages and files, which the command line named."""
    token = _granted.set((*_granted.get(), *trust))
    try:
        yield
    finally:
        _granted.reset(token)


def granted() -> tuple[str, ...]:
    """All packages and files that `trusting` permits at present."""
    return _granted.get()


def require_trusted(config: Any, trust: Sequence[str] = (), rooms: Sequence[str] = (*ROOMS, *ALONE)) -> None:
    """Raise a ValueError if a stored configuration would call code that is neither in `rooms` nor in a package of `trust`.

    A user's Python file (`model=custom`) is code as well, so its path must be in `trust`.

    Interpolations are not permitted, because resolving them could add a call that was not checked.
    """
    places = (*rooms, *trust)
    for mapping, key, value in _leaves(config):
        if "${" in str(value):
            raise ValueError(f"{value!r}: an interpolation is not permitted in a stored configuration; not loaded")
        if key != "_target_":
            continue
        if str(value) in rooms:
            continue
        if not _is_in(str(value), trust) and any(part.startswith("_") for part in str(value).split(".")):
            raise ValueError(f"{value}: this stored configuration calls private code; not loaded")
        module = _module_of(str(value)) if _is_in(str(value), (*places, USER_CODE)) else ""
        if _is_in(module, (USER_CODE,)):
            _require_trusted_file(mapping, trust)
        elif not _is_in(module, places):
            raise ValueError(
                f"{value}: this stored configuration calls code outside {', '.join(places)}; {_remedy(str(value))}"
            )


def _remedy(target: str) -> str:
    """The override that permits a stored configuration to call `target`; no override for Python's own modules and snnconv."""
    package = target.partition(".")[0]
    if package == "snnconv" or package in sys.stdlib_module_names:
        return "not loaded"
    return f"load it with {program.pasted('trust', [package])} if you trust that package"


def _require_trusted_file(call: Mapping[str, Any], trust: Sequence[str]) -> None:
    """Raise a ValueError unless `call` has a plain path=… of a Python file that is in `trust`."""
    path = call.get("path")
    if not isinstance(path, str) or {"_args_", "_partial_"} & set(call):
        raise ValueError(f"{call['_target_']}: a stored configuration must name its Python file as path=…, "
                         "without _args_ and _partial_; not loaded")  # fmt: skip
    if not Path(path).is_file():
        raise ValueError(f"{call['_target_']}: this stored configuration runs the code in {path}, which does not exist; "
                         "if the file was moved, give its present place with model.path=…")  # fmt: skip
    if Path(path).resolve() not in [Path(entry).resolve() for entry in trust if entry.endswith(".py")]:
        raise ValueError(f"{call['_target_']}: this stored configuration runs the code in {path}; "
                         f"load it with {program.pasted('trust', [path])} if you trust that file")  # fmt: skip


def _leaves(config: Any) -> Iterable[tuple[Any, Any, Any]]:
    """Every plain value in nested mappings and lists, with its container and its key."""
    for key, value in config.items() if isinstance(config, Mapping) else enumerate(config):
        if isinstance(value, Mapping | list | tuple):
            yield from _leaves(value)
        else:
            yield config, key, value


def _is_in(path: str, places: Iterable[str]) -> bool:
    return any(f"{path}.".startswith(f"{place}.") for place in places)


def _module_of(target: str) -> str:
    """The module that defines `target`; "" if it does not exist."""
    parts = target.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        try:
            named: Any = importlib.import_module(".".join(parts[:depth]))
            named = functools.reduce(getattr, parts[depth:], named)
        except (ModuleNotFoundError, AttributeError):
            continue
        return str(getattr(named.func if isinstance(named, functools.partial) else named, "__module__", ""))
    return ""
