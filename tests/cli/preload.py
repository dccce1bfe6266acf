"""Imports of the commands and setup of the first figure, done once in the process from which `forked` forks."""

import importlib
import io
import pkgutil

import torch
from matplotlib.figure import Figure

import snnconv

for module in pkgutil.walk_packages(snnconv.__path__, "snnconv."):
    if not module.name.startswith("snnconv.hardware.baselines."):  # torchao asks for CUDA, which no fork can use then
        importlib.import_module(module.name)
for name in ("rich.table", "spikingjelly.activation_based.neuron", "torchvision.transforms.v2"):
    importlib.import_module(name)

figure = Figure(layout="constrained")  # reads fonts and builds the grammar of "$10^1$"
figure.subplots().semilogx([1, 10], [0, 1])
figure.savefig(io.BytesIO(), format="svg")
assert not torch.cuda.is_initialized()
