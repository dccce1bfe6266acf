"""The same numbers on a CUDA device; run with -m gpu.  Arithmetic is exact (`make_exact`), so equality means equality."""

import pytest
import torch
from spikingjelly.activation_based import functional

from snnconv.functional import qcfs
from snnconv.methods.qcfs import convert
from snnconv.neurons.integrate_fire import IntegrateFire
from snnconv.runtime.environment import set_precision
from snnconv.training import Fit, fit

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


def test_training_learns_on_the_device(fresh_network, tiny_batches, open_tiny_run):
    train, valid = tiny_batches(32, 8, shuffle=True), tiny_batches(20, 8)
    for batches in (train, valid):
        for name in ("images", "labels", "scale", "offset"):
            setattr(batches, name, getattr(batches, name).to(DEVICE))
    run = open_tiny_run("run", f"device={DEVICE}")
    fit(fresh_network(), train, valid, Fit(epochs=8, lr=0.1, batch_size=8), run)
    assert run.best()["valid_accuracy"] == 1.0
