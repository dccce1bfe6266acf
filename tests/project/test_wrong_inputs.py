"""Wrong inputs of Python programs are refused by what is wrong with them, before a number comes out that looks sound."""

import pytest
import torch
from torch import nn

import snnconv

pytestmark = pytest.mark.usefixtures("unchecked")

IMAGES, LABELS = torch.rand(16, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3

OTHER = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def spoilt(value: float) -> torch.Tensor:
    images = IMAGES.clone()
    images[3, 0, 0, 0] = value
    return images


@pytest.fixture(scope="module")
def ann():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))


@pytest.fixture(scope="module")
def snn(ann):
    return snnconv.convert(ann, IMAGES)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ann, snn: snnconv.convert("net.pt", IMAGES), "str: expected a network, an nn.Module"),
        (lambda ann, snn: snnconv.convert(ann.state_dict(), IMAGES), "OrderedDict: expected a network"),
        (lambda ann, snn: snnconv.convert(snn, IMAGES), "this is already a spiking network"),
        (lambda ann, snn: snnconv.convert(ann, spoilt(torch.nan)), "1: its activations .* are NaN or infinite"),
        (lambda ann, snn: snn(spoilt(torch.nan), 2), "values that are NaN or infinite"),
        (lambda ann, snn: snn(spoilt(-torch.inf), 2), "values that are NaN or infinite"),
        (lambda ann, snn: snn((255 * IMAGES).to(torch.uint8), 2), "images of uint8: convert them to float"),
        (lambda ann, snn: snn(IMAGES, 2.0), "timesteps=2.0: must be an integer of at least 1"),
        (lambda ann, snn: snn(IMAGES[0], 2), r"for a single image use images.unsqueeze\(0\)"),
        (lambda ann, snn: snnconv.accuracy(ann, [IMAGES]), "16 inputs has no targets"),
        (lambda ann, snn: snnconv.accuracy(ann, [(IMAGES, LABELS[:5])]), "16 inputs has 5 targets"),
        (lambda ann, snn: snnconv.accuracy_over_time(snn, [IMAGES], 2), "16 inputs has no targets"),
        (lambda ann, snn: snnconv.accuracy_over_time(ann, [(IMAGES, LABELS)], 2), "expected a spiking network"),
        (lambda ann, snn: snnconv.over_time(ann, [(IMAGES, LABELS)], torch.sub, 2), "expected a spiking network"),
        (lambda ann, snn: snnconv.explain(OTHER, snn, [(IMAGES, LABELS)]), "no activation at 1"),
        (lambda ann, snn: snnconv.fit(ann, [], epochs=1, lr=0.1), "train: contains no batches"),
        (lambda ann, snn: snnconv.fit(ann, [IMAGES], epochs=1, lr=0.1), "16 inputs has no targets"),
        (lambda ann, snn: snnconv.finetune(snn, [IMAGES], timesteps=2), "16 inputs has no targets"),
    ],
)
def test_they_are_refused(call, message, ann, snn):
    with pytest.raises((ValueError, TypeError), match=message):
        call(ann, snn)


def test_errors_of_torch_state_the_shapes(ann, snn):
    """torch names the sizes of the matrices, and not those of the images that the caller passed."""
    wide = [(torch.rand(8, 1, 5, 5), LABELS[:8])]
    for call in (
        lambda: snnconv.convert(ann, wide),
        lambda: snnconv.accuracy(ann, wide),
        lambda: snnconv.accuracy_over_time(snn, wide, 2),
        lambda: snnconv.fit(ann, wide, epochs=1, lr=0.1),
        lambda: snnconv.prepare(ann, calibration=wide),
    ):
        with pytest.raises(RuntimeError) as raised:
            call()
        assert any(", 1, 5, 5] of float32" in note for note in raised.value.__notes__)
