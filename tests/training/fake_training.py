"""Training steps on a fake accelerator; prints one JSON line for each case: {case: "" or the error}.

Autograd asks the driver of a CUDA device for its context, so fake CUDA tensors have no backward pass without that driver.  Here a
backend of PyTorch without kernels takes the place of CUDA: its fake tensors do.  It is registered for the whole process, which is
therefore one of its own.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import snnconv
from snnconv.conversion.trainable import trainable
from snnconv.nn.activations.clipped_relu import ClippedReLU
from snnconv.nn.activations.cs_qcfs import CSQCFS
from snnconv.nn.activations.noisy_qcfs import NoisyQCFS
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.qcfs_floor_first import QCFSFloorFirst
from snnconv.nn.activations.relu import ReLU
from snnconv.nn.activations.slip_relu import SlipReLU
from snnconv.training import through_time, trainer
from snnconv.training.epochs import Totals
from snnconv.training.quantized_weights import Weights
from snnconv.training.settings import Fit

DEVICE = "fakegpu"
ACTIVATIONS = {"relu": ReLU} | {
    name: partial(kind, 4)
    for name, kind in {
        "qcfs": QCFS,
        "qcfs_floor_first": QCFSFloorFirst,
        "noisy_qcfs": NoisyQCFS,
        "slip_relu": SlipReLU,
        "clipped_relu": ClippedReLU,
        "cs_qcfs": CSQCFS,
    }.items()
}


class Net(nn.Module):
    """A shortcut, batch norm, average pooling, and with `gate` a product of two signals."""

    def __init__(self, activation: Callable[[], nn.Module] = ACTIVATIONS["qcfs"], gate: bool = False) -> None:
        super().__init__()
        self.gate = gate
        self.conv1, self.norm1, self.act1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), activation()
        self.conv2, self.act2 = nn.Conv2d(4, 4, 3, padding=1), activation()
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(64, 3)

    def forward(self, x):
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.act2(self.conv2(x) + x)
        x = x * F.sigmoid(x.mean((2, 3), keepdim=True)) if self.gate else x
        return self.fc(self.pool(x).flatten(1))


def moved(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Move a module as `.to` does."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        with mode:
            return mode.from_tensor(tensor).to(DEVICE)

    return module._apply(move)


def require_gradients(network: nn.Module) -> None:
    """Of all trained parameters, unless the optimizer has taken them (Muon)."""
    gradients = [p.grad for p in network.parameters() if p.requires_grad]
    assert sum(gradient is None for gradient in gradients) <= 1
    assert {gradient.device.type for gradient in gradients if gradient is not None} == {DEVICE}


def training_step(activation: str = "qcfs", weights: Weights | None = None, **settings) -> None:
    """One step of `Trainer`, with everything that it may carry."""
    ann, mode = Net(ACTIVATIONS[activation]), FakeTensorMode(allow_non_fake_inputs=True)
    ann(torch.rand(6, 1, 8, 8))  # what depends on the shape is built
    moved(ann.train(), mode)
    with mode, LAYOUT_STAYS:
        images, labels = torch.rand(6, 1, 8, 8, device=DEVICE), torch.zeros(6, dtype=torch.long, device=DEVICE)
        step = trainer.Trainer(ann, Fit(epochs=1, lr=0.1, **settings), torch.device(DEVICE), weights or Weights())
        step.keep_zeros()
        for index in range(2):
            step._step(images, labels, totals := Totals(step.device))
            if step.lookahead:
                step.lookahead.step(index + 1, 2)
        assert totals.sums.device.type == DEVICE
    require_gradients(ann)


def finetune(gate: bool = False, teacher: bool = True, **settings) -> None:
    """Training through time of two batches, except for sums and checks that are read from the device."""
    calibration = [(torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.long))]
    ann, mode = snnconv.prepare(Net(nn.ReLU, gate), calibration=calibration), FakeTensorMode(allow_non_fake_inputs=True)
    how = through_time.Settings(timesteps=2, epochs=1, **settings)
    snn = snnconv.convert(ann.eval(), calibration, method="qcfs", simulation={"fold_threshold": False})
    network = trainable(snn, how)
    teacher_network = moved(ann.requires_grad_(False), mode) if teacher else None
    moved(network, mode)
    with mode:
        batch = torch.rand(6, 1, 8, 8, device=DEVICE), torch.zeros(6, dtype=torch.long, device=DEVICE)
    batches = Batches(batch)
    with (
        mode,
        LAYOUT_STAYS,
        patch.object(through_time, "_report", lambda *_: None),
        patch.object(through_time, "all_finite", lambda _: True),
    ):
        through_time.train_through_time(network, teacher_network, batches, how)
    require_gradients(network)


LAYOUT_STAYS = patch.object(
    nn.Module, "to", lambda module, *_, **__: module
)  # modules are there already; fake parameters
# cannot change their layout


class Batches(SimpleNamespace):
    """Two equal batches on the device."""

    def __init__(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        super().__init__(batch=batch, device=torch.device(DEVICE), set_epoch=lambda _: None)

    def __len__(self) -> int:
        return 2

    def __iter__(self):
        return iter([self.batch] * 2)


STAYS = torch.ones(3)


class LeftBehind(torch.autograd.Function):
    """A gradient on the CPU."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * STAYS


def left_behind() -> None:
    """The check itself."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.rand(6, 3, device=DEVICE, requires_grad=True)
        with pytest.raises(Exception, match="cpu"):
            LeftBehind.apply(x).sum().backward()


CASES: dict[str, Callable[[], None]] = {
    **{f"step, {name}": partial(training_step, name) for name in ACTIVATIONS},
    **{f"step, {name}": partial(training_step, optimizer=name, clip_grad_norm=1.0) for name in ("adamw", "muon")},
    "step, lookahead": partial(training_step, lookahead=1, label_smoothing=0.1, norm_bias_lr=4.0, nesterov=True),
    "step, zeros": partial(training_step, keep_zeros=True),
    **{f"step, weights {bits}": partial(training_step, weights=Weights(bits=bits)) for bits in (2, 4, "binary", "power_of_two")},
    "finetune": finetune,
    "finetune, every step, labels": partial(finetune, loss="every", distill=0.5),
    "finetune, no teacher": partial(finetune, teacher=False, detach_reset=True),
    "finetune, frozen thresholds": partial(finetune, thresholds="frozen", surrogate="atan"),
    "finetune, operators": partial(finetune, gate=True),
    "a tensor that stays behind": left_behind,
}  # fmt: skip


def main() -> None:
    _setup_privateuseone_for_python_backend(DEVICE)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    for name, case in CASES.items():
        try:
            case()
            error = ""
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        sys.stdout.write(json.dumps({name: error}) + "\n")


if __name__ == "__main__":
    main()
