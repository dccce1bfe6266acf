"""method=max_norm, percentile, mse, kl, ema: thresholds from calibration images, against plain loops."""

import copy

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from snnconv.conversion.method import rehearse
from snnconv.conversion.methods.threshold import convert
from snnconv.conversion.rules import kullback_leibler, largest, least_squares, percentile
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

SCHEDULES = [
    {"schedule": "step"},
    {"schedule": "layer", "chunk": 3},
    {"schedule": "layer", "chunk": 4, "fold_threshold": True},
]
EXACT = {  # settings that keep thresholds in few bits; `levels` in the test: 4
    "max_norm": {"rule": largest},
    "percentile": {"rule": lambda samples, levels: percentile(samples, levels, 90)},
    "mse": {"rule": lambda samples, levels: least_squares(samples, levels, 16)},
    "kl": {"rule": lambda samples, levels: kullback_leibler(samples, levels, 16, 64)},
    "ema": {"rule": largest, "momentum": 0.75, "batch_size": 4},
}


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture
def batches(exact_images):
    return [(exact_images(4, seed).double(), torch.zeros(4)) for seed in (11, 12, 13)]


def literal_activations(ann: nn.Module, batches) -> dict[str, list[torch.Tensor]]:
    """Outputs of each ReLU, [C, M] for each batch."""
    seen: dict[str, list[torch.Tensor]] = {}

    def watch(path):
        return lambda module, inputs, output: seen.setdefault(path, []).append(
            output.float().transpose(0, 1).flatten(1)
        )

    ann = copy.deepcopy(ann)
    for path, module in ann.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(watch(path))
    with torch.no_grad():
        for images, _ in batches:
            ann(images)
    return seen


def literal_thresholds(ann, batches, rule, per_channel, momentum=None, batch_size=None) -> dict[str, torch.Tensor]:
    """θ of each layer, or of each channel, one after the other."""
    found = {}
    for path, parts in literal_activations(ann, batches).items():
        groups = (
            [[part[c] for part in parts] for c in range(len(parts[0]))]
            if per_channel
            else [[p.flatten() for p in parts]]
        )
        thetas = []
        for group in groups:
            if momentum is None:
                thetas.append(rule(torch.cat(group), 4).item())
            else:
                theta = rule(group[0], 4).item()
                for part in group[1:]:
                    theta = momentum * theta + (1 - momentum) * rule(part, 4).item()
                thetas.append(theta)
        found[path] = torch.tensor([theta if theta > 0 else max(thetas) for theta in thetas], dtype=torch.float64)
    return found


class Literal(nn.Module):
    """v += x;  s = 1[v ≥ θ];  v −= θ·s, for each channel."""

    def __init__(self, thresholds: torch.Tensor, v_initial: float) -> None:
        super().__init__()
        self.thresholds, self.v_initial, self.v = thresholds, v_initial, None

    def forward(self, x):
        theta = self.thresholds.view(1, -1, *[1] * (x.dim() - 2))
        self.v = (self.v_initial * theta if self.v is None else self.v) + x
        output = theta * (self.v >= theta)
        self.v = self.v - output
        return output


@torch.no_grad()
def simulate_literally(ann, thresholds, v_initial, images, timesteps):
    network = copy.deepcopy(ann).eval()
    for path, theta in thresholds.items():
        parent, _, leaf = path.rpartition(".")
        setattr(network.get_submodule(parent), leaf, Literal(theta, v_initial))
    return torch.stack([network(images) for _ in range(timesteps)])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("kind", [pytest.param("plain", marks=pytest.mark.long), "residual"])
def test_equals_the_literal_conversion(exact_network, exact_images, batches, kind, name, per_channel):
    for seed in range(2):
        ann, images = exact_network(kind, ReLU, seed).double(), exact_images(5, seed).double()
        thresholds = literal_thresholds(ann, batches, per_channel=per_channel, **EXACT[name])
        for v_initial in (0.0, 0.5):
            expected = simulate_literally(ann, thresholds, v_initial, images, 7)
            assert expected.ne(expected[0]).any()  # spikes do something here
            for simulate in SCHEDULES:
                snn = convert(ann, batches, neuron=lambda threshold: IntegrateFire(threshold, v_initial), levels=4,  # noqa: B023
                              per_channel=per_channel, simulate=simulate, **EXACT[name])  # fmt: skip
                same(snn(images, 7), expected)


@pytest.mark.parametrize(
    ("name", "rule", "momentum"),
    [
        ("max_norm", lambda values: max(values), None),
        ("percentile", lambda values: sorted(values)[-(-999 * len(values) // 1000) - 1], None),
        ("mse", lambda values: least_squares(torch.tensor(values), 6, 100).item(), None),
        ("kl", lambda values: kullback_leibler(torch.tensor(values), 6, 128, 2048).item(), None),
        ("ema", lambda values: max(values), 0.9),
    ],
)
def test_the_yaml_is_the_rule(compose_config, exact_network, exact_images, name, rule, momentum):
    """Written out again: the percentile of 99.9 is the value that one in a thousand exceeds, …"""
    ann, batches = exact_network("residual", ReLU), [(exact_images(50, seed), torch.zeros(50)) for seed in (1, 2)]
    snn = instantiate(compose_config(f"method={name}", "levels=6").method)(ann, batches)
    for path, parts in literal_activations(ann, batches).items():
        first, second = (part.flatten().tolist() for part in parts)
        expected = rule(first + second) if momentum is None else momentum * rule(first) + (1 - momentum) * rule(second)
        assert snn.neurons()[path].threshold == pytest.approx(expected, rel=1e-6)


def test_the_initial_potential_is_a_setting_of_the_neuron(compose_config, exact_network, batches):
    for v_initial in (0.0, 0.5):
        cfg = compose_config("method=max_norm", f"neuron.v_initial={v_initial}")
        for neuron in instantiate(cfg.method)(exact_network("plain", ReLU).double(), batches).neurons().values():
            assert neuron.node._memories["v"] == v_initial * neuron.threshold


def test_tends_to_the_relu_network_with_the_largest_activation(exact_network, batches):
    """Nothing of the calibration images is clipped, so only the unevenness of the last few spikes remains."""
    ann = exact_network("residual", ReLU).double()
    images = torch.cat([images for images, _ in batches])
    snn = convert(ann, batches, neuron=IntegrateFire, rule=largest, simulate={"schedule": "layer", "chunk": 64})
    logits = snn(images, 1024)
    with torch.no_grad():
        distance = [(logits[:t].mean(0) - ann(images)).abs().mean().item() for t in (16, 128, 1024)]
    assert distance[0] > 3 * distance[1] > 9 * distance[2]


def test_a_silent_channel_gets_the_largest_threshold_of_its_layer(exact_network, batches):
    ann = exact_network("plain", ReLU).double()
    ann[1].bias.data[2] = -1000.0
    theta = convert(ann, batches, neuron=IntegrateFire, rule=largest, per_channel=True).neurons()["2"].threshold
    assert theta[2] == theta.max() > 0


# what is refused


def test_takes_relu_networks(exact_network, batches):
    with pytest.raises(ValueError, match=r"QCFS.*ReLU|no ReLU"):
        convert(exact_network("plain", lambda: QCFS(4)).double(), batches, neuron=IntegrateFire, rule=largest)


def test_needs_images(exact_network):
    with pytest.raises(ValueError, match=r"^2: there are no calibration images .*data\.calibration"):
        convert(exact_network("plain", ReLU), [], neuron=IntegrateFire, rule=largest)


def test_a_percentile_needs_enough_of_them(exact_network, batches):
    with pytest.raises(
        ValueError, match=r"^2: percent=99.9: needs at least 1000 activations, got 768; .*data\.calibration"
    ):
        convert(exact_network("plain", ReLU).double(), batches, neuron=IntegrateFire, rule=percentile)


def test_a_layer_that_is_never_active_is_named(exact_network, batches):
    ann = exact_network("plain", ReLU).double()
    ann[1].bias.data.fill_(-1000.0)
    with pytest.raises(ValueError, match=r"^2: .*activates"):
        convert(ann, batches, neuron=IntegrateFire, rule=largest)


def test_a_rehearsal_needs_few_images(compose_config, exact_network, batches):
    """Before training, a few images are tried; that they are too few for a percentile is no mistake."""
    method = instantiate(compose_config("method=percentile").method)
    rehearse(method, exact_network("plain", ReLU).double(), batches)
    with pytest.raises(ValueError, match="ReLU"):
        rehearse(method, exact_network("plain").double(), batches)
