"""The same numbers on a CUDA device; run with -m gpu.  Arithmetic is exact (`make_exact`), so equality means equality."""

import pytest
import torch
from spikingjelly.activation_based import functional

from snnconv.conversion.methods.qcfs import convert
from snnconv.data.augment import AutoAugment, RandomCrop, RandomFlip
from snnconv.nn.functional import qcfs
from snnconv.runtime.environment import set_precision
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.training.loop import fit
from snnconv.training.settings import Fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
DEVICE = "cuda"


def same(a, b):
    torch.testing.assert_close(a.cpu(), b.cpu(), rtol=0, atol=0)


@pytest.fixture(autouse=True)
def _exact_arithmetic():
    set_precision("float32")


@pytest.mark.parametrize("size", [100, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_qcfs_and_its_gradient(size, dtype):
    x = (torch.randint(-16, 32, (size,)) / 8).to(dtype)
    results = []
    for device in ("cpu", DEVICE):
        leaf = x.to(device).requires_grad_()
        theta = torch.tensor(1.0, device=device, requires_grad=True)
        y = qcfs(leaf, theta, 4)
        y.backward(torch.ones_like(y))
        results.append((y.detach(), leaf.grad, theta.grad))
    for here, there in zip(*results, strict=True):
        same(here, there)


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_neuron_emits_the_same_spikes(mode, dtype):
    """On any input, not only exact ones: the membrane does the same operations in the same order."""
    current, outputs = torch.randn(9, 4, 1000).to(dtype), []
    for device in ("cpu", DEVICE):
        neuron = IntegrateFire(0.7)
        functional.set_step_mode(neuron, mode)
        with torch.no_grad():
            outputs.append(torch.cat([neuron(chunk.to(device)) for chunk in current.split(4)]))
    same(*outputs)


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize(
    "setting", [{"schedule": "step"}, {"schedule": "layer", "chunk": 3}, {"schedule": "auto", "channels_last": True}]
)
def test_every_schedule_gives_the_logits_of_the_cpu(exact_network, exact_images, kind, setting):
    ann, images = exact_network(kind), exact_images(5)
    expected = convert(ann, [], neuron=IntegrateFire)(images, 8)
    snn = convert(ann, [], neuron=IntegrateFire, simulate=setting).to(DEVICE)
    same(snn(images.to(DEVICE), 8), expected)
    same(snn(images[:2].to(DEVICE), 8), expected[:, :2])


def on_device(batches):
    for name in ("images", "labels", "scale", "offset"):
        setattr(batches, name, getattr(batches, name).to(DEVICE))
    return batches


def test_training_learns_on_the_device(fresh_network, tiny_batches, open_tiny_run):
    train, valid = on_device(tiny_batches(32, 8, shuffle=True)), on_device(tiny_batches(20, 8))
    run = open_tiny_run("run", f"device={DEVICE}")
    fit(fresh_network(), train, valid, Fit(epochs=8, lr=0.1, batch_size=8), run)
    assert run.best()["valid_accuracy"] == 1.0


def test_a_training_step_never_waits_for_the_device(fresh_network, tiny_batches, open_tiny_run, monkeypatch):
    """Between two looks at the progress nothing is read back, so the processor can run ahead and keep the GPU busy."""
    train = on_device(tiny_batches(64, 8, shuffle=True, augment=[RandomCrop(1), RandomFlip()]))
    valid = on_device(tiny_batches(20, 8))
    usual = type(train).__iter__

    def watched(batches):
        for index, batch in enumerate(usual(batches)):
            alone = batches is train and 0 < index < len(batches) - 1
            torch.cuda.set_sync_debug_mode("error" if alone else "default")
            yield batch

    monkeypatch.setattr(type(train), "__iter__", watched)
    monkeypatch.setattr("snnconv.training.loop.time.monotonic", lambda: 0.0)  # it is never time to look
    try:
        fit(
            fresh_network(), train, valid, Fit(epochs=1, lr=0.1, batch_size=8), open_tiny_run("run", f"device={DEVICE}")
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_every_operation_of_autoaugment_gives_what_it_gives_on_the_cpu():
    """Within a grey level, but for a few pixels that lie between two of a turned image."""
    images, policy = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8), AutoAugment()
    for _, *operation in policy.draw(5000, torch.Generator()):
        there, here = policy.apply(images.to(DEVICE), *operation), policy.apply(images, *operation)
        assert ((there.cpu().int() - here.int()).abs() > 1).float().mean() < 0.01, operation
    assert policy(images.to(DEVICE), torch.Generator(DEVICE)).is_cuda
