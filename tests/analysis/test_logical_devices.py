"""Calibration, curve, explanation and training with the network on an accelerator, with real values (`logical_devices`).

Unlike fake tensors (tests/spiking/test_fake_cuda.py) these have values, so everything that reads a number can be tested.
Not tested: kernels for CUDA, CUDA graphs, Triton, memory; backward passes through time (tests/training/test_fake_training.py).
"""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import snnconv
from logical_devices import CPU, CUDA, LogicalDevices, MixedDevices
from networks import residual

T = 4
RUNS = Path(__file__).parents[1] / "stored_runs"
IMAGES, LABELS = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3
BATCHES = [(IMAGES, LABELS)]


def network(activation: str = "relu") -> nn.Module:
    model = residual(nn.ReLU)
    return model if activation == "relu" else snnconv.prepare(model, levels=4, calibration=BATCHES)


@pytest.mark.long
@pytest.mark.parametrize("activation", ["relu", "qcfs"])
def test_every_method_is_calibrated_measured_and_explained(any_method, activation):
    """On inputs from the CPU; the results are those of a network on the CPU."""
    model = network(activation).eval().requires_grad_(False)
    if any_method == "finetune" or any_method not in snnconv.methods(model):
        pytest.skip("not its network")
    expected = snnconv.accuracy_over_time(convert(model, any_method), BATCHES, timesteps=T)
    with LogicalDevices() as devices:
        model.to("cuda")
        snn = convert(model, any_method)
        images = IMAGES[:5].to("cuda")
        assert devices.of(snn(images, T)) == CUDA
        devices.uploads.clear()
        snn(images, T)
        assert devices.uploads == []
        assert snnconv.accuracy_over_time(snn, BATCHES, timesteps=T).accuracy == expected.accuracy
        why = snnconv.explain(model, snn, BATCHES, timesteps=[1, T])
        assert why.errors is None or why.errors.snn[T] == expected.accuracy[T]


def convert(model: nn.Module, method: str) -> nn.Module:
    torch.manual_seed(0)
    return snnconv.convert(model, BATCHES, method=method, simulation={"schedule": "step"})


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [
        {"ema": 0.5, "label_smoothing": 0.1, "clip_grad_norm": 1.0},
        {"optimizer": "muon", "lookahead": 1},
        {"optimizer": "adamw", "keep_zeros": True, "channels_last": True},
        {"teacher": str(RUNS / "relu"), "distill": 0.5, "distill_layers": 0.1},
    ],
)
def test_training_moves_batches_and_teacher_to_the_network(settings):
    pixels, labels = torch.rand(32, 1, 8, 8), torch.arange(32) % 10
    with LogicalDevices() as devices:
        model = snnconv.load(RUNS / "relu").to("cuda")
        loader = DataLoader(TensorDataset(pixels, labels), batch_size=16)
        history = snnconv.fit(model, loader, loader, epochs=2, lr=0.01, tune="none", verbose=False, **settings)
        assert {devices.of(tensor) for tensor in model.state_dict().values()} == {CUDA}
    assert history["loss"][-1] > 0


def test_mixed_devices_are_found():
    """The check itself."""
    with LogicalDevices() as devices:
        here, there = torch.rand(3, 4), torch.rand(3, 4, device="cuda")
        for mixed in (
            lambda: here + there,
            lambda: torch.cat([here, there]),
            there.numpy,
            lambda: nn.Linear(4, 2)(there),
            lambda: there[0].add_(here[0]),
        ):
            with pytest.raises(MixedDevices, match="cuda"):
                mixed()
        same = [there + torch.tensor(2.0), there[0], torch.zeros_like(there), here.to(there), there.tril(), here.cuda()]
        assert [devices.of(tensor) for tensor in same] == [tensor.device for tensor in same] == [CUDA] * len(same)
        assert there.cpu().device == CPU
        assert there.cpu().numpy().shape == (3, 4)
        layer = nn.Linear(4, 2).to("cuda")
        layer(there).sum().backward()
        assert layer.weight.grad.device == CUDA
