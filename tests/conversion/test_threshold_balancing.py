"""method=threshold_balancing against a literal transcription of Bu et al., CVPR 2025, and by hand."""

import copy

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from snnconv.conversion.method import rehearse
from snnconv.conversion.methods.threshold_balancing import Balancing, convert
from snnconv.nn.activations.relu import ReLU
from snnconv.spiking.accuracy import accuracy_over_time
from snnconv.spiking.tasks import running_mean

SCHEDULES = [
    {"schedule": "step"},
    {"schedule": "layer", "chunk": 3},
    {"schedule": "layer", "chunk": 4, "fold_threshold": True},
]


@pytest.fixture
def batches(exact_images):
    return [(exact_images(4, seed).double(), torch.zeros(4)) for seed in (11, 12, 13)]


class Literal(nn.Module):
    """One ReLU of the paper's procedure: first it finds its thresholds, then it spikes.  Channel by channel."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.threshold, self.v = rate, None, None

    def forward(self, x):
        self.threshold = self.threshold or [0.0] * x.shape[1]
        channels = [self.channel(c, x[:, c]) for c in range(x.shape[1])]
        return torch.stack(channels, 1)

    def channel(self, c, x):
        if self.v is None:
            above = [value - self.threshold[c] for value in x.flatten().tolist() if value > self.threshold[c]]
            self.threshold[c] += self.rate * 2 * sum(above) / x.numel()
            return x.clamp(0, self.threshold[c])
        v = self.v.get(c, self.threshold[c] / 2) + x
        spikes = (v >= self.threshold[c]).to(x.dtype)
        self.v[c] = v - self.threshold[c] * spikes
        return self.threshold[c] * spikes


@torch.no_grad()
def literal(ann: nn.Module, batches, iterations: int, rate: float, images, timesteps: int):
    """Thresholds by path, and the logits of each step."""
    network, layers = copy.deepcopy(ann).eval(), {}
    for path, module in ann.named_modules():
        if isinstance(module, nn.ReLU):
            parent, _, leaf = path.rpartition(".")
            layers[path] = Literal(rate)
            setattr(network.get_submodule(parent), leaf, layers[path])
    for i in range(iterations):
        network(batches[i % len(batches)])
    for layer in layers.values():
        layer.v = {}
        layer.threshold = [theta or max(layer.threshold) for theta in layer.threshold]
    return {path: layer.threshold for path, layer in layers.items()}, torch.stack(
        [network(images) for _ in range(timesteps)]
    )


@pytest.mark.parametrize(("iterations", "rate"), [(1, 1.0), (2, 1.0), (7, 1.0), (7, 0.25)])
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_equals_the_literal_conversion(exact_network, exact_images, batches, kind, iterations, rate):
    for seed in range(2):
        ann, images = exact_network(kind, ReLU, seed).double(), exact_images(5, seed).double()
        pairs = [batch[start : start + 2] for batch, _ in batches for start in (0, 2)]
        thresholds, logits = literal(ann, pairs, iterations, rate, images, 7)
        assert logits.ne(logits[0]).any()
        for simulate in SCHEDULES:
            snn = convert(ann, batches, iterations=iterations, batch_size=2, rate=rate, simulate=simulate)
            for path, neuron in snn.neurons().items():
                assert neuron.threshold.tolist() == pytest.approx(thresholds[path], rel=1e-12)
            torch.testing.assert_close(snn(images, 7), logits, rtol=1e-9, atol=1e-9)


def test_by_hand():
    """Activations 0, 0, 0, 4: the mean of what θ clips halves at every step.  A constant one overshoots, and rests."""
    layer = Balancing(1.0)
    x, seen = torch.tensor([[0.0, 3.0], [-1.0, 3.0], [-5.0, 3.0], [4.0, 3.0]]), []
    for _ in range(4):
        output = layer(x)
        seen.append(layer.threshold.tolist())
        assert output.tolist() == [[0, 3], [0, 3], [0, 3], [seen[-1][0], 3]]
    assert seen == [[2, 6], [3, 6], [3.5, 6], [3.75, 6]]


def test_thresholds_never_fall(exact_network, batches):
    ann = exact_network("residual", ReLU).double()
    found = [convert(ann, batches, iterations=n).neurons() for n in (1, 2, 4, 8, 64)]
    for path in found[0]:
        thresholds = torch.stack([neurons[path].threshold for neurons in found])
        assert (thresholds.diff(dim=0)[:, thresholds[0] > 0] >= 0).all()
        assert (thresholds.diff(dim=0) > 0).any()


def test_a_late_readout_counts_later_logits_only(compose_config, exact_network, batches, tiny_batches):
    method = instantiate(compose_config("method=threshold_balancing", "method.readout_from=3").method)
    snn = method(exact_network("residual", ReLU), [(images.float(), labels) for images, labels in batches])
    assert snn.latency.readout_from == 3
    images = tiny_batches()
    expected = 0
    for x, y in images:
        logits = snn(x, 5)
        assert running_mean(logits, 3)[4].ne(running_mean(logits)[4]).any()
        expected += (logits[2:].mean(0).argmax(1) == y).sum().item()
    assert accuracy_over_time(snn, images, 5).correct[5] == expected


def test_a_rehearsal_is_one_iteration(compose_config, exact_network, batches, monkeypatch):
    method, calls = instantiate(compose_config("method=threshold_balancing").method), []
    monkeypatch.setattr(
        Balancing, "forward", lambda self, x, forward=Balancing.forward: (calls.append(1), forward(self, x))[1]
    )
    rehearse(method, exact_network("plain", ReLU).double(), batches)
    assert len(calls) == 2  # layers
    method(exact_network("plain", ReLU).double(), batches)
    assert len(calls) == 2 + 2 * 100


# what is refused


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0},
        {"iterations": 1.5},
        {"batch_size": 0},
        {"readout_from": 0},
        {"rate": 0.0},
        {"rate": float("nan")},
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_out_of_range_are_named(exact_network, batches, wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        convert(exact_network("plain", ReLU).double(), batches, **wrong)


def test_takes_relu_networks(exact_network, batches):
    with pytest.raises(ValueError, match="no ReLU"):
        convert(exact_network("plain").double(), batches)


def test_needs_images(exact_network):
    with pytest.raises(ValueError, match=r"^2: there are no calibration images .*data\.calibration"):
        convert(exact_network("plain", ReLU), [])


def test_a_layer_that_is_never_active_is_named(exact_network, batches):
    ann = exact_network("plain", ReLU).double()
    ann[1].bias.data.fill_(-1000.0)
    with pytest.raises(ValueError, match=r"^2: .*activates"):
        convert(ann, batches)
