"""Batches of inputs of any rank and type: uint8 is scaled, floats are not, each channel is normalized."""

import pytest
import torch

from snnconv.data.batches import Batches

SHAPES = [(3,), (3, 5), (3, 4, 5), (3, 2, 4, 5)]
MEAN, STD = [0.1, 0.5, 0.9], [0.2, 0.25, 0.5]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64])
def test_each_channel_is_normalized_and_only_pixels_are_scaled(shape, kind):
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(256, (6, *shape), generator=generator, dtype=torch.uint8)
    stored = raw if kind == torch.uint8 else raw.to(kind) / 255
    inputs = torch.cat([images for images, _ in Batches(stored, torch.arange(6), 4, MEAN, STD)])
    for image, pixels in zip(inputs, raw.double() / 255, strict=True):
        for channel in range(3):  # one by one
            expected = (pixels[channel] - MEAN[channel]) / STD[channel]
            torch.testing.assert_close(image[channel].double(), expected, rtol=1e-5, atol=1e-5)


def test_floats_are_taken_as_they_are():
    stored = torch.randn(5, 1, 4, 4)
    (batch,) = [images for images, _ in Batches(stored, torch.arange(5), 5, [0.0], [1.0])]
    assert torch.equal(batch, stored)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [0.5, 0.5]}, r"data.mean has 2 values; expected 1, or 3: one for each channel of images \[3, 4, 4\]"),
        ({"std": [0.5] * 4}, r"data.std has 4 values; expected 1, or 3"),
        ({"std": [0.5, 0.0, 0.5]}, r"data.std=\[0.5, 0.0, 0.5\]: must be positive"),
        ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.int64)}, "images of torch.int64: expected uint8 .* or floats"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    images = options.pop("images", torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=message):
        Batches(images, torch.arange(2), 2, **{"mean": [0.5], "std": [0.5], **options})
