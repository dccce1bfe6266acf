"""Convolutions of small maps as matrix products: the results of `nn.Conv2d`, and nothing else changes."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from snnconv.nn.small_maps import SmallMap, compute_as_product, compute_as_usual, product, serves

CASES = [  # input size, kernel, stride, padding; the first kind lays the weights out, the second the inputs
    ((2, 2), 3, 1, 1),
    ((1, 1), 3, 1, 1),
    ((3, 2), (3, 2), (2, 1), (1, 0)),
    ((4, 4), 3, 1, 1),
    ((8, 8), 3, 2, 1),
    ((8, 8), 1, 2, 0),
    ((5, 4), (3, 2), (1, 2), (0, 1)),
]


def pair(size, kernel, stride, padding, layout=torch.contiguous_format, dtype=torch.float64):
    """A convolution, its copy as a product, and images."""
    conv = nn.Conv2d(6, 5, kernel, stride, padding).to(dtype=dtype, memory_format=layout)
    fast = copy.deepcopy(conv)
    compute_as_product(fast, size)
    return conv, fast, torch.randn(4, 6, *size, dtype=dtype).to(memory_format=layout)


def results(conv, images):
    """The output, and the gradients of images, weight and bias for an arbitrary loss."""
    images = images.detach().requires_grad_()
    output = conv(images)
    loss = (output * torch.arange(output.numel(), dtype=output.dtype).view(output.shape).sin()).sum()
    return output, *torch.autograd.grad(loss, [images, *conv.parameters()])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_the_convolution(case, layout):
    conv, fast, images = pair(*case, layout)
    for usual, ours in zip(results(conv, images), results(fast, images), strict=True):
        torch.testing.assert_close(ours, usual)


@pytest.mark.parametrize("case", [CASES[0], CASES[3]])
def test_the_operator_is_whole(case):
    _, fast, images = pair(*case, torch.channels_last)
    torch.library.opcheck(product, (images.requires_grad_(), fast.weight, list(fast.stride), list(fast.padding)))


def test_it_is_a_product_and_only_at_its_size(monkeypatch):
    calls = []
    monkeypatch.setattr("snnconv.nn.small_maps.product", lambda *arguments: calls.append(1) or product(*arguments))
    conv, fast, images = pair(*CASES[0])
    fast(images)
    assert calls == [1]
    larger = torch.randn(4, 6, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(fast(larger), conv(larger))
    torch.testing.assert_close(fast(images[0]), conv(images[0]))  # without a batch
    assert calls == [1]
    compute_as_usual(fast)
    fast(images)
    assert calls == [1]


def test_counters_of_operations_see_the_convolution():
    conv, fast, images = pair(*CASES[0])
    counts = []
    for layer in (conv, fast):
        with FlopCounterMode(display=False) as counter:
            layer(images)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 4 * 2 * 2 * 9 * 6 * 5


def test_the_module_stays_what_it_was():
    conv, fast, _ = pair(*CASES[0])
    assert type(fast) is nn.Conv2d
    assert list(fast.state_dict()) == list(conv.state_dict())
    copied = copy.deepcopy(fast)
    assert copied.__dict__["_conv_forward"] == SmallMap((2, 2), (1, 1), (1, 1))
    traced = torch.fx.symbolic_trace(nn.Sequential(fast))
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "output"]


def test_autocast_rounds_as_it_does_for_the_convolution():
    conv, fast, images = pair(*CASES[3], torch.channels_last, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        usual, ours = results(conv, images), results(fast, images)
    assert ours[0].dtype == usual[0].dtype == torch.bfloat16
    assert [gradient.dtype for gradient in ours] == [gradient.dtype for gradient in usual]
    for one, other in zip(ours, usual, strict=True):
        torch.testing.assert_close(one.float(), other.float(), atol=0.1, rtol=0.02)


def test_compiled_in_one_graph():
    conv, fast, images = pair(*CASES[0], torch.channels_last)
    compiled = torch.compile(nn.Sequential(fast, nn.ReLU()), fullgraph=True)
    torch.testing.assert_close(compiled(images), conv(images).relu())


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), (2, 2)),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (2, 2)),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2), (2, 2)),
        (nn.Conv2d(4, 4, 3, padding="same"), (2, 2)),
        (nn.Conv2d(4, 4, 3, padding=1), (16, 16)),  # large
        (nn.Conv2d(4, 4, 3), (2, 2)),  # no output
        (nn.Linear(4, 4), (2, 2)),
    ],
)
def test_others_are_left_alone(layer, size):
    assert not serves(layer, size)


def test_ordinary_ones_are_served():
    assert all(serves(nn.Conv2d(4, 4, *case[1:]), case[0]) for case in CASES)
