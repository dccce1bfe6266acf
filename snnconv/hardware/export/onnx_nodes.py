"""Nodes and constants of an ONNX graph under construction, and the steps of its quantized tensors."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

MOST_LEVELS = 255  # largest value of uint8


class Nodes:
    """`nodes` in order, `constants` by name, and `levels`: (step, largest integer) of each tensor of integers times a step."""

    def __init__(self) -> None:
        onnx = package("onnx")
        self.helper, self.numpy_helper = onnx.helper, onnx.numpy_helper
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.levels: dict[str, tuple[Tensor, int]] = {}

    def emit(self, operation: str, inputs: Sequence[str], name: str, **settings: Any) -> str:
        """Add a node whose output has the same name, and return the name."""
        self.nodes.append(self.helper.make_node(operation, list(inputs), [name], name=name, **settings))
        return name

    def emit_moved(self, operation: str, inputs: Sequence[str], name: str, **settings: Any) -> str:
        """`emit` for an operation that only selects and moves elements of its first input, whose levels stay the same."""
        if inputs[0] in self.levels:
            self.levels[name] = self.levels[inputs[0]]
        return self.emit(operation, inputs, name, **settings)

    def constant(self, name: str, value: Any, kind: type = np.float32) -> str:
        """Add a constant, and return its name."""
        value = value.detach().numpy() if isinstance(value, Tensor) else value
        self.constants[name] = np.array(value, dtype=kind, order="C")
        return name

    def quantized(self, x: str, path: str, step: Tensor, levels: int) -> tuple[str, str]:
        """The names of two tensors: `x` rounded to integers 0 … `levels`, and these integers times `step`.

        The upper limit is a Min of integers, because a Clip of floats before QuantizeLinear would prevent onnxruntime from
        computing the previous layer in int8.
        """
        if levels > MOST_LEVELS:
            raise ValueError(f"{path}: {levels} levels, but uint8 holds only {MOST_LEVELS}; train with fewer levels")
        scale = [self.constant(f"{path}.scale", step), self.constant("zero_uint8", 0, np.uint8)]
        rounded = self.emit("QuantizeLinear", [x, *scale], f"{path}.rounded")
        integers = self.emit("Min", [rounded, self.constant(f"{path}.most", levels, np.uint8)], f"{path}.levels")
        self.levels[path] = (step, levels)
        return integers, self.emit("DequantizeLinear", [integers, *scale], path)


def package(name: str) -> ModuleType:
    """The package onnx or onnxruntime; ValueError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"export=onnx needs the package {name}: pip install 'snnconv[export]'") from error
