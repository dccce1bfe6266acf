"""method=spikingjelly_rate, spikingjelly_ltb: the spikes of SpikingJelly's own converted network, run as its documents say."""

import copy
from functools import partial

import pytest
import torch
from spikingjelly.activation_based import ann2snn, functional, neuron
from torch import nn
from torch.nn import functional as F

from snnconv.conversion.methods.spikingjelly import convert, local_threshold_balancing, rate_coding
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.spiking.recording import count_spikes

RECIPES = {
    "max": partial(rate_coding, mode="max"),
    "percentile": partial(rate_coding, mode="99.9%", momentum=0.3),
    "share": partial(rate_coding, mode=0.5),
    "channels": partial(rate_coding, mode="99.9%", channel_wise=True),
    "channels from half": partial(rate_coding, mode="max", channel_wise=True, half_threshold=True),
    "balanced": local_threshold_balancing,
}


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture
def batches(exact_images):
    return [(exact_images(8, seed).double(), torch.zeros(8)) for seed in (11, 12, 13)]


@torch.no_grad()
def as_documented(ann: nn.Module, recipe, images, timesteps: int):
    """Convert, reset, call once a timestep: logits of each step, and what each IF node emitted."""
    ann = copy.deepcopy(ann)
    for path, module in list(ann.named_modules()):
        if type(module) is ReLU:  # SpikingJelly converts nn.ReLU alone
            parent, _, leaf = path.rpartition(".")
            setattr(ann.get_submodule(parent), leaf, nn.ReLU())
    snn = ann2snn.FXConverter(recipe).convert(ann)
    nodes = [snn.get_submodule(n.target) for n in snn.graph.nodes if n.op == "call_module"]
    spikes: list[list[torch.Tensor]] = []
    for node in [node for node in nodes if isinstance(node, neuron.BaseNode)]:
        spikes.append([])
        node.register_forward_hook(lambda module, inputs, output, kept=spikes[-1]: kept.append(output))
    functional.reset_net(snn)
    return torch.stack([snn(images) for _ in range(timesteps)]), [torch.stack(steps) for steps in spikes]


def emitted(snn, images, timesteps):
    """Logits of each step, and what each node emitted."""
    spikes: dict[str, list[torch.Tensor]] = {path: [] for path in snn.neurons()}
    for path, module in snn.neurons().items():
        keep = lambda node, inputs, out, path=path: spikes[path].append(out if node.step_mode == "m" else out[None])  # noqa: E731
        module.node.register_forward_hook(keep)
    return snn(images, timesteps), [torch.cat(steps) for steps in spikes.values()]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_emits_the_spikes_of_spikingjelly(exact_network, exact_images, batches, kind, recipe):
    """In float64: thresholds are arbitrary numbers, and batch norms are folded by another route."""
    for seed in range(2):
        ann, images = exact_network(kind, ReLU, seed).double(), exact_images(5, seed).double()
        logits, spikes = as_documented(ann, recipe(batches[:2] * 2), images, 9)
        assert all(steps.ne(steps[0]).any() for steps in spikes)
        for simulate in ({"schedule": "step"}, {"schedule": "layer", "chunk": 4, "fold_threshold": True}):
            snn = convert(ann, batches[:2], recipe=recipe, iterations=4, simulate=simulate)
            got, got_spikes = emitted(snn, images, 9)
            torch.testing.assert_close(got, logits, rtol=1e-9, atol=1e-9)
            for one, other in zip(got_spikes, spikes, strict=True):
                same(one, other)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_bit_for_bit_in_float32(recipe):
    """Without batch norms the two networks do the same operations."""
    torch.manual_seed(1)
    ann = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    batches = [(torch.randn(16, 1, 8, 8), torch.zeros(16)) for _ in range(3)]
    images = torch.randn(6, 1, 8, 8)
    logits, spikes = as_documented(ann, recipe(batches), images, 20)
    got, got_spikes = emitted(
        convert(ann, batches, recipe=recipe, iterations=3, simulate={"schedule": "step"}), images, 20
    )
    same(got, logits)
    assert all(torch.equal(one, other) for one, other in zip(got_spikes, spikes, strict=True))


def test_counts_by_the_paths_of_the_relus(exact_network, exact_images, batches):
    ann, images = exact_network("residual", ReLU).double(), exact_images(5).double()
    snn = convert(ann, batches, recipe=local_threshold_balancing, iterations=3)
    with count_spikes(snn) as counts:
        snn(images, 6)
    _, spikes = as_documented(ann, local_threshold_balancing(batches), images, 6)
    assert list(counts) == [path for path, module in ann.named_modules() if isinstance(module, nn.ReLU)]
    for rows, steps in zip(counts.values(), spikes, strict=True):
        assert rows[:, 0].tolist() == steps.flatten(1).sum(1).tolist()


def test_relus_of_any_kind_are_converted(exact_network, batches):
    """SpikingJelly itself passes over a subclass of nn.ReLU."""
    snn = convert(exact_network("plain", ReLU).double(), batches, recipe=RECIPES["max"])
    assert list(snn.neurons()) == ["2", "7"]
    assert not any(isinstance(module, nn.ReLU) for module in snn.modules())


def test_membranes_are_wide_whatever_the_weights(exact_network, exact_images, batches):
    batches = [(images.float(), labels) for images, labels in batches]
    for recipe in ("max", "balanced"):
        snn = convert(exact_network("plain", ReLU), batches, recipe=RECIPES[recipe], simulate={"precision": "bf16"})
        assert snn(exact_images(), 4).isfinite().all()
        assert {module.node.v.dtype for module in snn.neurons().values()} == {torch.float32}


def test_prints_nothing(exact_network, batches, capfd):
    convert(exact_network("plain", ReLU).double(), batches, recipe=local_threshold_balancing)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


class Halved(nn.Module):
    """Divides, or has half the weights instead: the same function."""

    def __init__(self, divides: bool) -> None:
        super().__init__()
        self.conv, self.act, self.fc, self.divides = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(16, 3), divides

    def forward(self, x):
        spikes = F.pad(self.act(self.conv(x)), (0, 0, 0, 0)) / 2 if self.divides else self.act(self.conv(x))
        return self.fc(spikes.flatten(1))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_carries_layers_that_spikingjelly_does_not(make_exact, exact_images, batches, recipe):
    """It puts its neurons in place, and then refuses F.pad and division."""
    ann, equal = make_exact(Halved(True)).double(), make_exact(Halved(False)).double()
    equal.fc.weight.data /= 2
    with pytest.raises(ValueError, match="does not support function node"):
        ann2snn.FXConverter(ann2snn.RateCodingRecipe(batches)).convert(copy.deepcopy(ann))
    images = exact_images().double()
    logits, spikes = as_documented(equal, recipe(batches), images, 9)
    got, got_spikes = emitted(convert(ann, batches, recipe=recipe, iterations=3), images, 9)
    torch.testing.assert_close(got, logits, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(one, other) for one, other in zip(got_spikes, spikes, strict=True))


# what is refused


def test_needs_images(exact_network):
    """Without any, RateCodingRecipe would take thresholds of 1."""
    for recipe in RECIPES.values():
        with pytest.raises(ValueError, match=r"data\.calibration"):
            convert(exact_network("plain", ReLU), [], recipe=recipe)


def test_a_setting_that_spikingjelly_would_ignore(exact_network, batches):
    with pytest.raises(ValueError, match=r"half_threshold=true: .*channel_wise=true"):
        convert(exact_network("plain", ReLU).double(), batches, recipe=partial(rate_coding, half_threshold=True))


@pytest.mark.parametrize("readout_from", [0, -3])
def test_readout_starts_at_a_step(exact_network, batches, readout_from):
    with pytest.raises(ValueError, match=f"method.readout_from={readout_from}"):
        convert(exact_network("plain", ReLU).double(), batches, recipe=RECIPES["max"], readout_from=readout_from)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.act(x)).flatten(1))


def test_a_functional_relu_is_converted(batches):
    assert len(convert(Functional().double(), batches, recipe=RECIPES["max"]).neurons()) == 2


def test_errors_are_told_in_our_words(exact_network, batches):
    recipe = RECIPES["max"]
    with pytest.raises(ValueError, match="no ReLU"):
        convert(exact_network("plain", lambda: QCFS(4)).double(), batches, recipe=recipe)
    with pytest.raises(
        ValueError, match=r"Sequential: SpikingJelly cannot convert this network .*non-defined.*; choose method="
    ):
        convert(exact_network("plain", ReLU).double(), batches, recipe=partial(rate_coding, mode="most"))


def test_a_silent_layer_is_refused(exact_network, batches):
    ann = exact_network("plain", ReLU).double()
    ann[1].bias.data.fill_(-1000.0)
    with pytest.raises(ValueError, match="Threshold must be a finite positive number"):
        convert(ann, batches, recipe=RECIPES["max"])
