"""HA-SNM: its schedule by hand, and the network against a loop over single neurons."""

import copy

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from snnconv.conversion.methods.ha_snm import annealed, convert
from snnconv.conversion.registry import convert as by_name
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.neurons.signed import Signed
from snnconv.spiking.recording import count_spikes


class Literal(nn.Module):
    """A layer of neurons, each a list [v, sum of its spikes]."""

    def __init__(self, threshold: float, factors: list[float]) -> None:
        super().__init__()
        self.threshold, self.factors, self.states, self.step = threshold, factors, [], 0

    def forward(self, x):
        self.states = self.states or [[self.threshold / 2, 0] for _ in range(x.numel())]
        outputs = []
        for state, current in zip(self.states, x.flatten().tolist(), strict=True):
            state[0] += current
            spike = 0
            if state[0] >= self.threshold:
                spike = 1
            elif state[0] <= -self.factors[self.step] * self.threshold and state[1] > 0:
                spike = -1
            state[0] -= spike * self.threshold
            state[1] += spike
            outputs.append(spike * self.threshold)
        self.step += 1
        return torch.tensor(outputs, dtype=x.dtype).view(x.shape)


@torch.no_grad()
def literally(ann: nn.Module, images: torch.Tensor, factors: list[float]) -> torch.Tensor:
    network = copy.deepcopy(ann)
    for path, site in ann.named_modules():
        if isinstance(site, QCFS):
            network.set_submodule(path, Literal(site.threshold.item(), factors))
    return torch.stack([network(images) for _ in factors])


def test_the_schedule():
    assert annealed(1.5, 0.5, 8, 5).tolist() == [1.5, 1.25, 1.0, 0.75, 0.5]
    assert annealed(1.25, 0.5, 8, 32)[[0, 31]].tolist() == [1.0625, 0.875]  # a quarter of the distance to 1
    assert annealed(1.25, 0.5, 1e-9, 4).sub(1).abs().max() < 1e-9


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("schedule", ["step", "layer"])
def test_equals_a_loop_over_neurons(compose_config, exact_network, exact_images, kind, schedule):
    lowest, halved = 0.0, [1 + 0.5 * (1.25 - 0.05 * t - 1) for t in range(16)]  # min(1, 8/16) = 1/2
    for seed, factors in enumerate([halved, halved, [1.25, 1.0, 0.75, 0.5]]):
        ann, images = exact_network(kind, seed=seed).double(), exact_images(6, seed).double()
        for site in ann.modules():
            if isinstance(site, QCFS):
                site.set_threshold(2 * site.threshold.item())  # rarer, larger spikes: more of them come too early
        cfg = compose_config("method=ha_snm", f"simulate.schedule={schedule}", "simulate.chunk=3", "levels=4")
        snn = instantiate(cfg.method)(ann, [])
        snn.prepare(len(factors))
        with count_spikes(snn) as counts:
            torch.testing.assert_close(snn(images, len(factors)), literally(ann, images, factors), rtol=0, atol=0)
        lowest = min(lowest, *(float(rows[:, 2].min()) for rows in counts.values()))
    assert lowest == -1


def test_without_annealing_it_is_signed_snm(exact_network, exact_images):
    ann, images = exact_network("residual"), exact_images(5)
    one = convert(ann, [], first=1.0, last=1.0)(images, 9)
    assert torch.equal(one, by_name(ann, method="signed_snm", v_initial=0.5)(images, 9))


def test_settings_are_refused(exact_network):
    with pytest.raises(ValueError, match=r"method\.last=0: must be a positive number"):
        convert(exact_network("plain"), [], last=0)
    with pytest.raises(ValueError, match="must be a positive number"):
        Signed(1.0, 0.5, torch.tensor([1.0, -1.0]))
