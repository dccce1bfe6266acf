"""Activations: what every one promises, and QCFS."""

import copy
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torch._subclasses import FakeTensorMode

from snnconv.nn.activations.clipped_relu import ClippedReLU
from snnconv.nn.activations.noisy_qcfs import NoisyQCFS
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.slip_relu import SlipReLU
from snnconv.nn.functional import qcfs
from snnconv.nn.recompute import RecomputedOutputs


@pytest.fixture
def make(compose_config, any_activation):
    """The activation of conf/activation/<any_activation>.yaml as a model would call it, with L = 4."""
    make = instantiate(compose_config(f"activation={any_activation}", "levels=4").activation)
    if isinstance(make(), nn.ReLU):
        pytest.skip("a plain ReLU, to start or to compare with: it promises nothing about thresholds")
    return make


# the protocol, for every yaml


def test_has_a_positive_threshold_and_levels(make):
    activation = make()
    assert isinstance(activation, nn.Module)
    assert isinstance(activation.threshold, torch.Tensor)
    assert (activation.threshold > 0).all()
    assert activation.levels is None or activation.levels >= 1


def test_threshold_can_be_set_and_is_kept(make):
    activation, other = make(), make()
    activation.set_threshold(2.0)
    assert (activation.threshold - 2.0).abs().max() <= 2.0**-22  # θ may be a function of its parameter
    other.load_state_dict(activation.state_dict())
    assert torch.equal(other.threshold, activation.threshold)
    assert torch.equal(copy.deepcopy(activation).threshold, activation.threshold)


def test_sites_do_not_share_a_threshold(make):
    one, other = make(), make()
    before = other.threshold.clone()
    one.set_threshold(0.25)
    assert torch.equal(other.threshold, before)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_threshold_is_positive_and_finite(make, value):
    with pytest.raises(ValueError, match="threshold"):
        make().set_threshold(value)


def test_keeps_shape_and_lets_gradients_through(make):
    activation, x = make(), torch.linspace(-1, 1, 24).view(2, 3, 2, 2).requires_grad_()
    activation.set_threshold(0.5)
    activation(x).sum().backward()
    assert activation(x).shape == x.shape
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in activation.parameters())


# QCFS


@pytest.mark.parametrize("levels", [0, -1, 1.5, 4.0, True, "4", None])
def test_levels_is_a_whole_number_of_at_least_one(levels, unchecked):
    with pytest.raises(ValueError, match="levels="):
        QCFS(levels)


@pytest.mark.parametrize("threshold", [0.0, -8.0, math.nan, math.inf])
def test_the_initial_threshold_is_positive_and_finite(threshold):
    with pytest.raises(ValueError, match="threshold="):
        QCFS(4, threshold)


def test_the_module_is_the_formula():
    activation, x = QCFS(4, threshold=2.0), torch.randn(100)
    torch.testing.assert_close(activation(x), qcfs(x, torch.tensor(2.0), 4), rtol=0, atol=0)


def test_the_threshold_is_learned():
    """With all inputs above θ the output is θ, so pulling the output to 3 pulls θ to 3."""
    activation = QCFS(4, threshold=1.0)
    optimizer = torch.optim.SGD(activation.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        (activation(torch.full((4,), 10.0)) - 3.0).square().mean().backward()
        optimizer.step()
    assert activation.threshold.item() == pytest.approx(3.0, abs=1e-3)


def test_a_threshold_pushed_below_zero_stays_positive_and_rises_again():
    activation = QCFS(4)
    with torch.no_grad():
        activation.theta.fill_(-0.5)  # as one large step of an optimizer would
    assert activation.threshold.item() > 0
    assert torch.isfinite(activation(torch.randn(10))).all()
    optimizer = torch.optim.SGD(activation.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (-activation(torch.full((1,), 10.0))).sum().backward()
        optimizer.step()
    assert activation.threshold.item() == pytest.approx(1.5)


def test_printing_shows_what_matters():
    assert "levels=4, threshold=2" in repr(QCFS(4, threshold=2.0))
    assert "levels=8, threshold=not known yet" in repr(QCFS())


@pytest.mark.parametrize("kind", [QCFS, ClippedReLU, NoisyQCFS, SlipReLU])
def test_without_a_threshold_the_first_batch_sets_it(kind):
    """To the θ of least squares; later batches do not, nor where it was loaded before."""
    activation, loaded, x = kind(4), kind(4), torch.randn(1000)
    loaded.load_state_dict(kind(4, 3.0).state_dict())
    assert activation.threshold.isnan()
    for batch in (x, 100 * x):
        activation(batch), loaded(batch)
    grid = [x.max() * k / 100 for k in range(1, 101)]
    errors = [(x.relu() - qcfs(x.relu(), theta, 4)).double().square().sum() for theta in grid]
    assert activation.threshold == grid[int(torch.stack(errors).argmin())]
    assert loaded.threshold == 3.0
    assert not activation._forward_pre_hooks


def test_a_first_batch_of_zeros_gives_a_threshold_too():
    activation = QCFS(4)
    assert (activation(-torch.ones(10)) == 0).all()
    assert activation.threshold == 1.0


def test_an_unknown_threshold_survives_export_and_copies():
    network, x = nn.Sequential(nn.Linear(8, 8), QCFS(4), nn.Linear(8, 2)), torch.randn(16, 8)
    program = torch.export.export(network, (x,), strict=False)
    assert "snnconv.qcfs.default" in calls(program.graph)
    assert network[1].threshold.isnan()
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x), network(x))


@pytest.mark.long
def test_an_unknown_threshold_survives_compilation():
    network, x = nn.Sequential(nn.Linear(8, 8), QCFS(4), nn.Linear(8, 2)), torch.randn(16, 8)
    compiled = torch.compile(copy.deepcopy(network), backend="eager")
    for _ in range(2):
        assert torch.equal(compiled(x), network(x))


# clipped ReLU, SlipReLU, noisy QCFS: values and gradients, element by element as the papers write them

GRID = [k / 16 + 1 / 64 for k in range(-24, 56)]  # no element on a border, where conventions differ


def literal_clip(x: float, theta: float) -> tuple[float, float, float]:
    """min(max(x, 0), θ), dy/dx, dy/dθ."""
    if x < 0:
        return 0.0, 0.0, 0.0
    return (x, 1.0, 0.0) if x < theta else (theta, 0.0, 1.0)


def literal_floor(x: float, theta: float, levels: int) -> tuple[float, float, float]:
    """θ·clip(floor(Lx/θ + ½)/L, 0, 1), straight through the floor, then clipped."""
    quantized = math.floor(x * levels / theta + 0.5) / levels
    if quantized < 0:
        return 0.0, 0.0, 0.0
    return (theta, 0.0, 1.0) if quantized > 1 else (theta * quantized, 1.0, quantized - x / theta)


def measured(activation: nn.Module, x: float) -> tuple[float, float, float]:
    activation.zero_grad()
    point = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    output = activation.double()(point)
    output.sum().backward()
    return output.item(), point.grad.item(), activation.theta.grad.item()


@pytest.mark.parametrize("x", GRID)
def test_clipped_relu_is_its_formula(x):
    assert measured(ClippedReLU(4, 1.5), x) == literal_clip(x, 1.5)


@pytest.mark.parametrize("slope", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("x", GRID[::3])
def test_slip_relu_is_its_formula(x, slope):
    both = zip(literal_clip(x, 1.5), literal_floor(x, 1.5, 4), strict=True)
    expected = [slope * clipped + (1 - slope) * quantized for clipped, quantized in both]
    assert measured(SlipReLU(4, 1.5, slope), x) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("slope", [-0.1, 1.1, math.nan])
def test_the_slope_is_a_share(slope):
    with pytest.raises(ValueError, match="slope="):
        SlipReLU(4, slope=slope)


def test_noise_has_its_size_in_training_and_leaves_the_gradient():
    activation, plain, x = NoisyQCFS(4, 1.0, None, noise=0.25), QCFS(4, 1.0), torch.linspace(-1, 2, 20_000)
    points, others = x.clone().requires_grad_(), x.clone().requires_grad_()
    noise = activation(points) - plain(others)
    assert noise.mean().item() == pytest.approx(0, abs=0.005)
    assert noise.std().item() == pytest.approx(0.25, rel=0.02)
    assert torch.corrcoef(torch.stack([noise.detach(), x]))[0, 1].abs() < 0.03
    activation(points).sum().backward()
    plain(others).sum().backward()
    assert torch.equal(points.grad, others.grad)
    assert activation.theta.grad == plain.theta.grad


def test_noise_ends_with_training():
    activation, x = NoisyQCFS(4, 1.0, None, noise=0.25).eval(), torch.linspace(-1, 2, 100)
    assert torch.equal(activation(x), qcfs(x, torch.tensor(1.0), 4))
    assert activation.state_dict().keys() == QCFS(4).state_dict().keys()  # either fits the other


@pytest.mark.parametrize("timesteps", [0, -1, 2.0])
def test_noise_is_measured_for_whole_timesteps(timesteps, unchecked):
    with pytest.raises(ValueError, match="timesteps="):
        NoisyQCFS(4, timesteps=timesteps)


@pytest.mark.parametrize("noise", [-0.1, math.nan, math.inf])
def test_noise_is_a_standard_deviation(noise):
    with pytest.raises(ValueError, match="noise="):
        NoisyQCFS(4, noise=noise)


# torch.export, torch.compile, autocast, fake tensors


def trained(activation: nn.Module) -> nn.Module:
    """A layer before and after `activation`, in eval mode."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), activation, nn.Conv2d(8, 4, 3)).eval()


def calls(graph: torch.fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


def test_export_records_one_call(make):
    """With a dynamic batch, on sizes with and without a fused kernel (2^15 elements)."""
    network = trained(make())
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: batch},), strict=False)
    before, call, after = calls(program.graph)
    assert (before, after) == ("aten.conv2d.default", "aten.conv2d.default")
    assert call.startswith("snnconv.")
    for images in (torch.randn(1, 3, 8, 8), torch.randn(70, 3, 8, 8)):
        assert torch.equal(program.module()(images), network(images))
    elementary = program.run_decompositions()
    assert all(name.startswith("aten.") for name in calls(elementary.graph))
    assert torch.equal(elementary.module()(images), network(images))


def gradients(network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    network(images).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def test_an_exported_network_has_the_same_gradients(make):
    network, images = trained(make()), torch.randn(70, 3, 8, 8)
    expected = gradients(network, images)
    exported = gradients(torch.export.export(network, (images,), strict=False).module(), images)
    assert exported.keys() == expected.keys()
    assert all(torch.equal(exported[name], expected[name]) for name in expected)


@pytest.mark.long
def test_compiled_and_exported_strictly_it_is_the_same():
    """In another process, because torch cannot trace the shape checks that tests install."""
    script = Path(__file__).with_name("without_shape_checks.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [100, 2**16])
def test_autocast_leaves_the_levels_in_float32(make, dtype, size):
    activation = make().eval()
    activation.set_threshold(3.3)
    x = (torch.rand(size) * 4).to(dtype)
    with torch.autocast("cpu", dtype):
        output = activation(x)
        exported = torch.export.export(activation, (x,), strict=False).module()(x)
    assert torch.equal(output, activation(x))  # where float32 is tested (test_functional)
    assert torch.equal(exported, output)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_fake_tensors_pass(make, device):
    """A training step on fake tensors; on "cuda" (no backward without a driver) a tensor left on the CPU is an error."""
    with FakeTensorMode(), torch.device(device):
        network, images = trained(make()), torch.randn(64, 3, 32, 32)
        with RecomputedOutputs():
            output = network(images)
        if device == "cpu":
            output.sum().backward()
    assert output.device.type == device
    assert output.shape == (64, 4, 30, 30)
    assert all(p.grad.shape == p.shape for p in network.parameters() if device == "cpu")


def test_an_exported_network_recomputes_outputs():
    """With RecomputedOutputs the exported program keeps as many tensors as the network itself, with the same gradients."""
    network, images, results = trained(QCFS(4, 1.0)), torch.randn(70, 3, 8, 8), []
    for run in (network, torch.export.export(network, (images,), strict=False).module()):
        hooks, recomputed = RecomputedOutputs(), []
        pack = hooks.pack_hook
        hooks.pack_hook = lambda tensor, pack=pack, log=recomputed: log.append(callable(kept := pack(tensor))) or kept
        with hooks:
            results.append(gradients(run, images))
        assert sum(recomputed) == 1
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
