"""`torch.compile` without its line about a missing GPU."""

import contextlib
import importlib
import logging
from typing import Any

import torch


def compiled(function: Any, **options: Any) -> Any:
    """torch.compile(function, **options)."""
    _import_quietly("torch.utils.cpp_extension")
    return torch.compile(function, **options)


def require_compiler(remedy: str) -> None:
    """ValueError, which tells the `remedy`, unless there is the C++ compiler that torch.compile needs."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    _import_quietly("torch.utils.cpp_extension")
    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ValueError(f"torch.compile finds no C++ compiler; install g++, or use {remedy}") from error


def _import_quietly(name: str) -> None:
    """Import what torch.compile imports: it warns "No CUDA runtime is found" where the CUDA toolkit is installed without a GPU."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    with contextlib.suppress(ImportError):  # it needs setuptools, torch.compile may do without
        importlib.import_module(name)
    logger.setLevel(level)
