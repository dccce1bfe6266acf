"""Weights as integers: laws of symmetric quantization."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnconv.nn.quantization import largest_integer, quantize, quantize_to, stored_bits


def draw_weights(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 99), bits=st.integers(3, 8), per_channel=st.booleans())
def test_integers_are_symmetric_and_near(seed, bits, per_channel):
    weights = draw_weights(seed, 5, 4, 3, 3)
    found = quantize(weights, bits, per_channel)
    q = 2 ** (bits - 1) - 1
    assert torch.equal(found.integers, found.integers.round())
    assert found.integers.abs().max() == q  # the largest weight is kept
    assert (found.values - weights).abs().flatten(1).amax(1).le(found.scale / 2 * (1 + 1e-5)).all()
    assert len(found.scale.unique()) == (5 if per_channel else 1)
    assert torch.equal(quantize(-weights, bits, per_channel).integers, -found.integers)
    again = quantize(found.values, bits, per_channel)
    assert torch.equal(again.integers, found.integers)


@given(seed=st.integers(0, 99), factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_a_factor_moves_into_the_scale(seed, factor):
    weights = draw_weights(seed, 4, 6)
    one, other = quantize(weights), quantize(factor * weights)
    assert torch.equal(one.integers, other.integers)
    torch.testing.assert_close(factor * one.scale, other.scale)


def test_ternary_by_hand():
    """|w| has mean 1; 0.7 and above stay, and their mean size is 1.25."""
    found = quantize(torch.tensor([[2.0, -1.0, 0.75, -0.25]]), bits=2)
    assert found.integers.tolist() == [[1, -1, 1, 0]]
    assert found.scale.item() == pytest.approx(1.25)


def test_ternary_for_a_whole_layer_and_for_each_channel():
    weights = torch.tensor([[1.0, -1.0], [0.1, -0.1]])
    assert quantize(weights, 2, per_channel=True).integers.tolist() == [[1, -1], [1, -1]]
    assert quantize(weights, 2, per_channel=False).integers.tolist() == [[1, -1], [0, 0]]


def test_nothing_but_zeros():
    for bits in (2, 8):
        found = quantize(torch.zeros(3, 4), bits)
        assert not found.integers.any()
        assert found.scale.tolist() == [1, 1, 1]


def test_a_given_scale_cuts_off_what_it_cannot_reach():
    found = quantize_to(torch.tensor([0.5]), torch.tensor([[0.7, -100.0]]), bits=4)
    assert found.integers.tolist() == [[1, -7]]


@pytest.mark.parametrize("bits", [1, 17, 2.5, True, "8"])
def test_refuses_other_widths(bits, unchecked):
    with pytest.raises(ValueError, match=r"2 \(ternary\) to 16 bits"):
        largest_integer(bits)


def test_binary_by_hand():
    weights = torch.tensor([[0.5, -1.5, 0.0, 1.0], [-2.0, -2.0, -2.0, -2.0]])
    quantized = quantize(weights, "binary")
    assert quantized.integers.tolist() == [[1, -1, 1, 1], [-1, -1, -1, -1]]
    assert quantized.scale.tolist() == [0.75, 2.0]
    assert quantize(weights, "binary", per_channel=False).scale.tolist() == [11 / 8, 11 / 8]
    assert torch.equal(quantize(quantized.values, "binary").values, quantized.values)


def test_powers_of_two_by_hand():
    weights = torch.tensor([[64.0, -33.0, 1.0, 0.4, -0.6, 3.0, 0.0]])
    quantized = quantize(weights, "power_of_two")
    assert quantized.integers.tolist() == [[64, -32, 1, 0, -1, 4, 0]]
    assert quantized.scale.tolist() == [1.0]
    assert torch.equal(quantize(quantized.values, "power_of_two").values, quantized.values)


def test_powers_of_two_are_the_nearest_exponents():
    weights = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
    quantized = quantize(weights, "power_of_two")
    allowed = {0.0, *(2.0**k for k in range(7))}
    assert set(quantized.integers.abs().unique().tolist()) <= allowed
    nonzero = quantized.integers != 0
    ratio = (weights / quantized.values)[nonzero].log2().abs()
    inside = (weights / quantized.scale.view(-1, 1)).abs()[nonzero] >= 1
    assert ratio[inside].max() <= 0.5 + 1e-5


@pytest.mark.parametrize(("bits", "stored"), [("binary", 1), ("power_of_two", 4), (8, 8), (2, 2)])
def test_bits_in_memory(bits, stored):
    assert stored_bits(bits) == stored
    with pytest.raises(
        ValueError, match=r"bits='octal': weights have 2 \(ternary\) to 16 bits, or are binary or power_of_two"
    ):
        largest_integer("octal")
