"""Facts on which results depend in addition to the configuration: versions, commit, command, device, threads, precision."""

import functools
import os
import platform
import re
import subprocess
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from snnconv.runtime.program import command as command

PACKAGES = ("snnconv", "torch", "torchvision", "spikingjelly", "hydra-core", "wandb", "numpy")
PRECISIONS = ("float32", "tf32", "bf16")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that influence results; on CUDA also the name of the GPU."""
    packages = {"python": platform.python_version()}
    if torch.cuda.is_available():
        packages["gpu"] = torch.cuda.get_device_name()
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return packages


@functools.cache
def commit() -> str | None:
    """The git commit of the code, with "+" if files (other than results) have changed; outside a checkout $SNNCONV_COMMIT, or None.

    The value of the first call is cached: a run calls it at the start, because the checkout may change before the run ends.
    """
    folder = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    if not (folder / ".git").exists():
        return os.environ.get("SNNCONV_COMMIT")
    try:
        changed = git("status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)experiments/*/results.jsonl")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(seed: int, device: object, precision: str) -> dict[str, Any]:
    """Facts about the origin of a result: seed, device, precision, threads, versions, commit and command."""
    return {
        "seed": seed,
        "device": str(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
        "command": command(),
    }


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto`: CUDA if available; under torchrun one for each local rank.  ValueError if there is none."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(name)):
        raise ValueError(f"device={name!r}: must be auto, cpu, cuda or cuda:<number>")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device={name}: torch {torch.__version__} finds no CUDA device; use device=cpu or device=auto"
        )
    device = torch.device(name)
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"device={device}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0")
        torch.cuda.set_device(device)
    return device


_DEFAULT_THREADS = torch.get_num_threads()


def set_threads(threads: str | int) -> None:
    """Set the number of CPU threads; `auto` keeps torch's choice.  ValueError for other values."""
    if threads != "auto" and (type(threads) is not int or threads < 1):
        raise ValueError(f"threads={threads!r}: must be auto or an integer of at least 1")
    torch.set_num_threads(_DEFAULT_THREADS if threads == "auto" else int(threads))


def set_precision(precision: str) -> None:
    """Select float32 arithmetic: exact for `float32` and `bf16` (which uses autocast), rounded to TF32 for `tf32`.

    In the fast precisions cuDNN benchmarks its kernels for each shape and uses the fastest; in `float32` it uses a fixed kernel.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: must be one of {', '.join(PRECISIONS)}")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = precision != "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Context in which weight layers run in bfloat16 if `precision` is "bf16"."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
