"""method=spikingjelly_sta: what SpikingJelly's own converted transformer emits, shown an image once and nothing afterwards."""

import copy

import pytest
import torch
from spikingjelly.activation_based import ann2snn, functional
from torch import nn

from snnconv.analysis.explanation import explain
from snnconv.analysis.operations import count_operations
from snnconv.conversion.methods.spikingjelly_sta import convert
from snnconv.conversion.registry import convert as by_name
from snnconv.conversion.storage import load, save
from snnconv.nn.models.cct import CCT
from snnconv.nn.models.vit import ViT
from snnconv.spiking.recording import count_spikes

SETTINGS = {"iterations": 2, "batch_size": 8, "time_steps": 4}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x):
        y = self.norm1(x)
        attended, _ = self.attention(y, y, y, need_weights=False)
        x = x + attended
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Patches, positions, two blocks, the first token."""

    def __init__(self):
        super().__init__()
        self.stem, self.position = nn.Conv2d(2, 8, 2, 2), nn.Parameter(torch.randn(1, 4, 8))
        self.blocks, self.norm, self.head = nn.Sequential(Block(), Block()), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.blocks(self.stem(x).flatten(2).transpose(1, 2) + self.position)
        return self.head(self.norm(x)[:, 0])


@pytest.fixture
def network():
    return Transformer().double().eval()


@pytest.fixture
def batches():
    return [(torch.randn(8, 2, 4, 4, dtype=torch.float64), torch.zeros(8)) for _ in range(2)]


@pytest.fixture
def images():
    return torch.randn(5, 2, 4, 4, dtype=torch.float64)


@torch.no_grad()
def as_documented(network, batches, images, timesteps, time_steps=4, mode="mse"):
    """Outputs of every step of `imagenet_vit_sta.py`: the image, then zeros."""
    recipe = ann2snn.STATransformerRecipe(
        batches, time_steps, "spiking_encoder", threshold_mode=mode, threshold_scale=0.5
    )
    snn = ann2snn.FXConverter(recipe).convert(copy.deepcopy(network))
    functional.set_step_mode(snn, "m")
    functional.reset_net(snn)
    sequence = torch.cat([images[None], torch.zeros(timesteps - 1, *images.shape, dtype=images.dtype)])
    return snn(sequence)


@pytest.mark.parametrize("mode", ["mse", "max"])
def test_emits_what_spikingjelly_emits(network, batches, images, mode):
    expected = as_documented(network, batches, images, 4, mode=mode)
    for simulate in ({"schedule": "step"}, {"schedule": "layer", "chunk": 3}):
        snn = convert(network, batches, **SETTINGS, threshold_mode=mode, simulate=simulate)
        torch.testing.assert_close(snn(images, 4), expected, rtol=1e-9, atol=1e-9)


def test_the_first_step_is_the_answer(network, batches, images):
    """In SpikingJelly as here: T only sets the size of a level."""
    assert as_documented(network, batches, images, 4)[1:].abs().max() < 1e-9
    snn = convert(network, batches, **SETTINGS)
    with count_spikes(snn) as counts:
        assert snn(images, 4)[1:].abs().max() < 1e-9
    assert all(rows[0, 0] > 0 and rows[1:, 0].sum() == 0 for rows in counts.values())


def test_more_levels_are_closer_to_the_ann(network, batches, images):
    with torch.no_grad():
        wanted = network(images)
    error = [
        (convert(network, batches, **{**SETTINGS, "time_steps": t})(images, 1)[0] - wanted).norm() for t in (2, 16, 128)
    ]
    assert error[2] < error[1] < error[0]
    assert error[2] < 0.02 * wanted.norm()


def test_its_class_says_what_it_sends(network, batches, images):
    """An encoder behind 5 layer norms, 2 GELUs and 2 projections; attention, GELU and norms in floating point; analog weights."""
    snn = convert(network, batches, **SETTINGS)
    assert len(snn.neurons()) == 9
    assert snn.latency.signed
    assert snn.latency.spike_levels > 4
    assert snn.latency.analog_currents
    assert snn.latency.float_operators == 2 * 3 + 2
    with count_spikes(snn) as counts:
        snn(batches[0][0], 1)
    largest = max(rows[:, 2:].abs().max().item() for rows in counts.values())
    assert largest <= snn.latency.spike_levels
    assert count_operations(snn, [(images, None)], [1]).accumulates[1]["head"] > 0


def test_its_energy_is_counted(network, batches, images):
    """Shown once, the image gives no mean currents, so there are no errors to split."""
    why = explain(network, convert(network, batches, **SETTINGS), [(images, torch.zeros(5).long())], [1, 2])
    assert why.errors is None
    assert 0 < why.energy.operations.spike_driven < 1


def test_attention_that_spikingjelly_refuses():
    """F.scaled_dot_product_attention; a network of ReLU is no transformer."""
    network = ViT(3, (2, 4, 4), nn.GELU, patch=2, width=8, depth=1, heads=2, gelu=True).double().eval()
    images = torch.randn(12, 2, 4, 4)
    batches = [(images.double(), torch.zeros(12))]
    with pytest.raises(ValueError, match="STATransformerRecipe step-mode backend"):
        as_documented(network, batches, images.double(), 1)
    assert len(convert(network, batches, **SETTINGS).neurons()) == 5
    with pytest.raises(ValueError, match="has no signed signal"):
        convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), [(torch.randn(8, 4), torch.zeros(8))])


def test_relus_are_computed_in_floating_point():
    """As in the convolutions of CCT: SpikingJelly refuses them; with fine levels the first step is the ANN."""
    network = CCT(3, (2, 8, 8), nn.GELU, width=8, depth=1, gelu=True).double().eval()
    images = torch.randn(24, 2, 8, 8, dtype=torch.float64)
    batches = [(images, torch.zeros(24))]
    with pytest.raises(ValueError, match="STATransformerRecipe step-mode backend"):
        as_documented(network, batches, images, 1)
    fine = convert(network, batches, **{**SETTINGS, "time_steps": 4096})
    with torch.no_grad():
        torch.testing.assert_close(fine(images, 2)[0], network(images), rtol=0.01, atol=1e-3)
        assert fine(images, 2)[1].abs().max() < 1e-9
    assert any(isinstance(module, nn.ReLU) for module in network.modules())  # the network itself is not changed


def test_is_saved_and_found_by_name(network, batches, images, tmp_path):
    snn = by_name(network, batches[0][0], method="spikingjelly_sta", **SETTINGS)
    save(snn, tmp_path / "sta")
    loaded = load(tmp_path / "sta")
    torch.testing.assert_close(loaded(images, 2), snn(images, 2), rtol=1e-9, atol=1e-9)
    assert count_operations(loaded, [(images, None)], [1]) == count_operations(snn, [(images, None)], [1])


@pytest.mark.parametrize(
    "setting", [{"time_steps": 0}, {"threshold_mode": "most"}, {"threshold_scale": 0.0}, {"momentum": 2.0}]
)
def test_settings_out_of_range(network, batches, setting):
    with pytest.raises(ValueError, match=f"method.{next(iter(setting))}="):
        convert(network, batches, **{**SETTINGS, **setting})
