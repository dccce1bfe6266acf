"""`torch.compile` without its warning about a missing GPU."""

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
    """Raise a ValueError with the `remedy` if the C++ compiler that torch.compile needs is missing."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    _import_quietly("torch.utils.cpp_extension")
    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ValueError(f"torch.compile finds no C++ compiler; install g++, or use {remedy}") from error


def _import_quietly(name: str) -> None:
    """Import the modules of torch.compile without their warning "No CUDA runtime is found" (CUDA toolkit without a GPU)."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    with contextlib.suppress(ImportError):  # it needs setuptools, torch.compile may do without
        importlib.import_module(name)
    logger.setLevel(level)
