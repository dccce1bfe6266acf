"""Simulations to measure: ours, SpikingJelly's as a user writes it, and the ANN as the floor."""

from functools import partial

import torch
from spikingjelly.activation_based import base, layer, neuron
from spikingjelly.activation_based import functional as sj
from torch import Tensor, nn

from benchmarks.subjects import network
from benchmarks.timing import DEVICE, Action
from snnconv.conversion.methods import qcfs
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.rewrite import replace_modules
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


def simulation(name: str, batch: int, timesteps: int, kind: str) -> Action:
    """T timesteps over one batch, without gradients."""
    images = torch.randn(batch, 3, 32, 32, device=DEVICE)
    ann = network(name, partial(QCFS, 4, 2.0)).eval()
    if kind.startswith("ann"):
        plain = network(name, nn.ReLU).eval()
        if kind.startswith("ann-best"):
            plain, images = (
                fold_batchnorm(plain).to(memory_format=torch.channels_last),
                images.contiguous(memory_format=torch.channels_last),
            )
        if kind.endswith("bf16"):
            plain, images = plain.to(torch.bfloat16), images.to(torch.bfloat16)
        return torch.no_grad()(lambda: [plain(images) for _ in range(timesteps)])
    if kind.startswith("spikingjelly"):
        return torch.no_grad()(spikingjelly_as_a_user_writes_it(ann, images, timesteps, kind[-1]))
    simulate = {
        "channels_last": True,
        "fold_threshold": True,
        "event_driven": "dense" not in kind,
        "precision": "bf16" if "bf16" in kind else "float32",
        "compile": "default" if "compiled" in kind else "none",
    }
    snn = qcfs.convert(ann, [], neuron=IntegrateFire, simulate=simulate)
    return lambda: snn(images, timesteps)


def test_set(name: str, batch: int, timesteps: int, kind: str, images: int) -> Action:
    """The same over as many images as a test set has, batch after batch."""
    action = simulation(name, batch, timesteps, kind)

    def run() -> None:
        for _ in range(images // batch):
            action()

    return run


def spikingjelly_as_a_user_writes_it(ann: nn.Module, images: Tensor, timesteps: int, mode: str) -> Action:
    """SpikingJelly's layers and IFNode in place of ours, θ as a factor, batch norm left as it is."""

    class Spikes(nn.Module):
        def __init__(self, threshold: float) -> None:
            super().__init__()
            self.threshold = threshold
            self.node = neuron.IFNode(v_threshold=threshold, v_reset=None)
            self.node.set_reset_value("v", threshold / 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.node(x) * self.threshold

    net = replace_modules(ann, QCFS, lambda activation: Spikes(activation.threshold.item()))  # type: ignore[operator]
    for module in net.modules():
        kind = getattr(layer, type(module).__name__, None)
        if (
            type(module).__module__.startswith("torch.nn")
            and kind is not None
            and not issubclass(kind, base.MemoryModule)
        ):
            module.__class__ = kind  # a subclass of torch's layer that knows step modes
            module._step_mode = "s"  # type: ignore[assignment]
    sj.set_step_mode(net, mode)

    def run() -> Tensor:
        sj.reset_net(net)
        if mode == "m":
            return net(images.unsqueeze(0).repeat(timesteps, 1, 1, 1, 1)).mean(0)
        return torch.stack([net(images) for _ in range(timesteps)]).mean(0)

    return run


def wide_mlp(width: int) -> Action:
    """8 timesteps of a perceptron with two hidden layers of `width`, over 64 images."""
    snn = qcfs.convert(network("mlp", partial(QCFS, 4, 2.0), width), [], neuron=IntegrateFire)
    images = torch.randn(64, 3, 32, 32, device=DEVICE)
    return lambda: snn(images, 8)
