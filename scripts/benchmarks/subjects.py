"""Networks to measure, and their training steps, curves, conversions and explanations."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import DEVICE, Action
from snnconv.analysis.errors import decompose
from snnconv.analysis.explanation import explain
from snnconv.analysis.operations import count_operations
from snnconv.conversion.method import takes
from snnconv.conversion.methods import qcfs
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.models.mlp import mlp
from snnconv.nn.models.resnet import resnet18, resnet20
from snnconv.nn.models.vgg import vgg16
from snnconv.nn.recompute import RecomputedOutputs
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

MODELS = {"resnet18": resnet18, "resnet20": resnet20, "vgg16": vgg16, "mlp": mlp}


class NaiveQCFS(QCFS):
    """The formula written with autograd, as in published code: the baseline."""

    def forward(self, x: Tensor) -> Tensor:
        """Clamp first, then round down with the gradient passed through."""
        x = (x / self.theta).clamp(0, 1) * self.levels + 0.5
        return ((x.floor() - x).detach() + x) / self.levels * self.theta


def network(name: str, activation: Callable[[], nn.Module], width: int = 0) -> nn.Module:
    """A network for 32×32 colour images, the same weights each time; `width` is for the MLP of the scaling rows."""
    torch.manual_seed(0)
    options = {"hidden": (width, width)} if width else {}
    build: Any = MODELS[name]
    return build(10, (3, 32, 32), activation, **options).to(DEVICE)


def training_step(name: str, batch: int, kind: str) -> Action:
    """One step of SGD: kind is relu, naive or ours, plus "-compiled"."""
    kinds: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "naive": partial(NaiveQCFS, 8, 8.0),
        "ours": partial(QCFS, 8, 8.0),
    }
    model = network(name, kinds[kind.partition("-")[0]]).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 32, 32, device=DEVICE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4)
    run = torch.compile(model) if kind.endswith("compiled") else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        if kind == "ours":
            with RecomputedOutputs():
                loss = nn.functional.cross_entropy(run(images), labels)
        else:
            loss = nn.functional.cross_entropy(run(images), labels)
        loss.backward()
        optimizer.step()

    return step


def whole_curve(name: str, batch: int, timesteps: int, kind: str) -> Action:
    """Accuracy at every t: one run, or one run a t."""
    snn = qcfs.convert(network(name, partial(QCFS, 4, 2.0)), [], neuron=IntegrateFire, simulate={"channels_last": True})
    images = torch.randn(batch, 3, 32, 32, device=DEVICE)
    if kind == "ours":
        return lambda: snn(images, timesteps)
    return lambda: [snn(images, t) for t in range(1, timesteps + 1)]


def conversions(name: str, images: int, timesteps: int, methods: Mapping[str, Any]) -> dict[str, Action]:
    """Each of `methods` from a network to a model ready for T steps, calibration on `images` images included.

    The floor is one pass of the ReLU network over these images.
    """
    torch.manual_seed(1)
    inputs = torch.randn(images, 3, 32, 32, device=DEVICE)
    batches = [(part, torch.zeros(len(part), dtype=torch.long, device=DEVICE)) for part in inputs.split(100)]
    anns = {nn.ReLU: network(name, nn.ReLU).eval(), QCFS: network(name, partial(QCFS, 4, 2.0)).eval()}
    floor = anns[nn.ReLU]

    def convert(method: Any) -> None:
        kind = nn.ReLU if nn.ReLU in (takes(method) or ()) else QCFS
        method(anns[kind], batches).prepare(timesteps)

    converted = {method: partial(convert, how) for method, how in methods.items()}
    return {"ann": torch.no_grad()(lambda: [floor(part) for part, _ in batches]), **converted}


def explanation(name: str, images: int, timesteps: int) -> dict[str, Action]:
    """Analysis of errors, of operations, and of both in the same runs at T = 1, 2, 4, …, beside the simulation."""
    torch.manual_seed(1)
    inputs = torch.randn(images, 3, 32, 32, device=DEVICE)
    batches = [(part, torch.zeros(len(part), dtype=torch.long, device=DEVICE)) for part in inputs.split(100)]
    ann = network(name, partial(QCFS, 4, 2.0)).eval()
    snn = qcfs.convert(ann, [], neuron=IntegrateFire, simulate={"channels_last": True})
    wanted = [2**k for k in range(timesteps.bit_length())]
    return {
        "simulation": lambda: [snn(part, timesteps) for part, _ in batches],
        "errors": lambda: decompose(ann, snn, batches, wanted, images),
        "operations": lambda: count_operations(snn, batches, wanted, images=images),
        "explain": lambda: explain(ann, snn, batches, wanted, images=images),
    }
