"""Devices without a device: on fake CUDA tensors, which have no values, a tensor left on the CPU is an error.

A network is converted and run once on the CPU, moved by `.to("cuda")` as a user would, and run again there.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import snnconv
from snnconv.conversion.trainable import trainable
from snnconv.hardware.integer.network import integerize
from snnconv.runtime.environment import autocast
from snnconv.training.through_time import Settings

T = 4
BATCHES = [(torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3)]


class Net(nn.Module):
    """A shortcut, batch norm, average pooling, and with `gate` a product of two signals."""

    def __init__(self, gate: bool = False) -> None:
        super().__init__()
        self.gate = gate
        self.conv1, self.norm1, self.act1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.act2, self.pool, self.fc = (
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Linear(64, 3),
        )

    def forward(self, x):
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.act2(self.conv2(x) + x)
        x = x * F.sigmoid(x.mean((2, 3), keepdim=True)) if self.gate else x
        return self.fc(self.pool(x).flatten(1))


@pytest.fixture(autouse=True)
def inputs_without_values(monkeypatch):
    """Whether images are finite cannot be asked of tensors that have no values."""
    monkeypatch.setattr("snnconv.spiking.time_loop._require_batch", lambda *_: None)


@pytest.fixture(autouse=True)
def moved_parameters_are_new():
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def fake(module: nn.Module, *shapes: tuple[int, ...]) -> tuple[FakeTensorMode, list[torch.Tensor]]:
    """Move `module` to a CUDA device that is not there; returns the mode and inputs of `shapes`, to be used inside it.

    Real tensors of one number, such as a θ, may stay on the CPU, as CUDA kernels take them; larger ones are an error.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        module.to("cuda")
        inputs = [torch.rand(shape, device="cuda") for shape in shapes]
    return mode, inputs


def how(schedule: str) -> dict:
    return {"schedule": schedule, "channels_last": False}  # torch cannot change the layout of fake parameters


def on_cuda(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cuda"


@pytest.mark.long
@pytest.mark.parametrize("schedule", ["step", "layer"])
@pytest.mark.parametrize("activation", ["relu", "qcfs"])
def test_every_method_simulates_on_one_device(any_method, activation, schedule):
    model = Net() if activation == "relu" else snnconv.prepare(Net(), levels=4, calibration=BATCHES)
    model.eval().requires_grad_(False)
    if any_method == "finetune" or any_method not in snnconv.methods(model):
        pytest.skip("not its network")
    snn = snnconv.convert(model, BATCHES, method=any_method, simulation=how(schedule))
    expected = snn(BATCHES[0][0][:5], T)  # what depends on T is built here
    mode, (images,) = fake(snn, (5, 1, 8, 8))
    with mode:
        output = snn(images, T)
    assert on_cuda(output)
    assert output.shape == expected.shape


@pytest.mark.parametrize("schedule", ["step", "layer"])
def test_operators_simulate_on_one_device(schedule):
    snn = snnconv.convert(Net(gate=True).eval().requires_grad_(False), BATCHES, simulation=how(schedule))
    assert snn.latency.float_operators
    mode, (images,) = fake(snn, (5, 1, 8, 8))
    with mode:
        assert on_cuda(snn(images, T))


def test_training_forwards_stay_on_one_device():
    """Of the ANN, and through time.  (Backward asks the driver for its context: tests/training/test_fake_training.py.)"""
    model = snnconv.prepare(Net(), levels=4, calibration=BATCHES)
    start = snnconv.convert(model, BATCHES, simulation={"fold_threshold": False})
    network = trainable(start, Settings(timesteps=2))
    for module, shape in ((model.train(), (5, 1, 8, 8)), (network.train(), (10, 1, 8, 8))):
        mode, (images,) = fake(module, shape)
        with mode:
            loss = F.cross_entropy(
                module(images).flatten(0, -2), torch.zeros(shape[0], dtype=torch.long, device="cuda")
            )
        assert on_cuda(loss)
        assert loss.requires_grad


def test_integers_simulate_on_one_device():
    model = snnconv.prepare(Net(), levels=4, calibration=BATCHES).eval()
    network = integerize(snnconv.convert(model, BATCHES, method="qcfs", simulation=how("step")), BATCHES).snn
    mode, (images,) = fake(network, (5, 1, 8, 8))
    with mode:
        assert on_cuda(network(images, T))


@pytest.fixture
def bfloat16_on_cuda(monkeypatch):
    """torch switches autocast off where there is no CUDA device."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
    return autocast(torch.device("cuda"), "bf16")


@pytest.mark.parametrize("through_time", [False, True])
def test_weight_layers_are_bfloat16_under_autocast(through_time, bfloat16_on_cuda):
    """In training and in simulation; membranes and thresholds stay in float32."""
    model = snnconv.prepare(Net(), levels=4, calibration=BATCHES).train()
    if through_time:
        model = snnconv.convert(model.eval(), BATCHES, method="qcfs", simulation=how("step"))
    precisions = set()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: precisions.add(output.dtype))
    mode, (images,) = fake(model, (5, 1, 8, 8))
    with mode, bfloat16_on_cuda:
        assert on_cuda(model(images, T) if through_time else model(images))
    assert precisions == {torch.bfloat16}
    potentials = [neuron.node.v for neuron in model.neurons().values()] if through_time else []
    assert all(v.dtype == torch.float32 and on_cuda(v) for v in potentials if isinstance(v, torch.Tensor))
    assert through_time == any(isinstance(v, torch.Tensor) for v in potentials)


@pytest.mark.long
def test_compilation_traces_on_one_device():
    """Up to the code for the device: Inductor and CUDA graphs (reduce-overhead) need its driver."""
    model = snnconv.prepare(Net(), levels=4, calibration=BATCHES).eval()
    mode, (images,) = fake(model, (5, 1, 8, 8))
    with mode, torch.no_grad():
        assert on_cuda(torch.compile(model, backend="aot_eager")(images))


def test_a_tensor_that_stays_behind_is_found():
    """The check itself: a constant of a module is not moved by `.to`."""

    class Stays(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.constant = torch.ones(1)

        def forward(self, x):
            return x + self.constant

    mode, (images,) = fake(Stays(), (5, 3))
    with mode, pytest.raises(Exception, match=r"cpu|non-Fake"):
        Stays()(images)
