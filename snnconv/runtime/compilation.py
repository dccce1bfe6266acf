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


def _import_quietly(name: str) -> None:
    """Import what torch.compile imports: it warns "No CUDA runtime is found" where the CUDA toolkit is installed without a GPU."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    with contextlib.suppress(ImportError):  # it needs setuptools, torch.compile may do without
        importlib.import_module(name)
    logger.setLevel(level)
