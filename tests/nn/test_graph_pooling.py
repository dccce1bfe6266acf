"""Average pooling is read alike from modules and functions, and names that are added are free."""

import doctest

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional as F

from networks import Net
from snnconv.nn.graph import names, pooling
from snnconv.nn.graph.names import attributes, free_name, numbered_name
from snnconv.nn.graph.pooling import AveragePool, average_pool


def read(forward, **layers):
    """The pooling of the last operation of a network."""
    network = Net(forward, **layers)
    node = list(fx.Tracer().trace(network).nodes)[-2]
    module = network.get_submodule(node.target) if node.op == "call_module" else None
    return average_pool(node, module)


@pytest.mark.parametrize(
    ("module", "call"),
    [
        (nn.AvgPool2d(2), lambda x: F.avg_pool2d(x, 2)),
        (nn.AvgPool2d(3, 1, 1), lambda x: F.avg_pool2d(x, 3, 1, 1)),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
        (nn.AvgPool2d((3, 2), ceil_mode=True), lambda x: F.avg_pool2d(kernel_size=(3, 2), ceil_mode=True, input=x)),
        (nn.AvgPool2d(2, divisor_override=3), lambda x: F.avg_pool2d(x, 2, divisor_override=3)),
        (nn.AdaptiveAvgPool2d(1), lambda x: F.adaptive_avg_pool2d(x, 1)),
        (nn.AdaptiveAvgPool2d((2, 3)), lambda x: F.adaptive_avg_pool2d(x, output_size=(2, 3))),
    ],
)
def test_modules_and_functions_are_read_alike(module, call):
    pool = read(lambda net, x: net.pool(x), pool=module)
    assert pool == read(lambda net, x: call(x))
    assert pool is not None


def test_other_operations_are_none():
    for forward in (lambda net, x: x.relu(), lambda net, x: F.max_pool2d(x, 2), lambda net, x: net.fc(x)):
        assert read(forward, fc=nn.Linear(2, 2)) is None


@given(kernel=st.integers(1, 3), stride=st.integers(1, 3), padding=st.integers(0, 1), counted=st.booleans(), ceil=st.booleans(),
       divisor=st.sampled_from([None, 1, 5]))  # fmt: skip
def test_plain_pooling_is_a_scaled_sum_over_its_windows(kernel, stride, padding, counted, ceil, divisor):
    """Ones in, and every window with its padding: the mean is the sum over the window, divided by its size."""
    padding = min(padding, kernel // 2)
    module = nn.AvgPool2d(kernel, stride, padding, ceil, counted, divisor)
    pool = read(lambda net, x: net.pool(x), pool=module)
    x = torch.rand(1, 2, 5, 6, dtype=torch.float64)
    size, step, pad = pool.window((5, 6))
    assert (size, step, pad) == ((kernel,) * 2, (stride,) * 2, (padding,) * 2)
    if pool.plain:
        sums = F.unfold(x, size, padding=pad, stride=step).view(1, 2, kernel**2, -1).sum(2)
        assert torch.allclose(module(x).flatten(2), sums / kernel**2)
    else:
        assert ceil or divisor is not None or (padding and not counted)


def test_the_mean_over_space_is_one_window():
    pool = AveragePool(output_size=(1, 1))
    assert (pool.adaptive, pool.whole, pool.plain) == (True, True, True)
    assert pool.window((5, 3)) == ((5, 3), (5, 3), (0, 0))
    assert not AveragePool(output_size=(1, 2)).plain


def test_names_are_free():
    network = nn.Sequential(nn.ReLU())
    taken = attributes(network)
    assert {"0", "forward", "training"} <= taken
    assert numbered_name("0", taken, 1) == "0_1"
    assert free_name("forward", taken) == "forward_"
    assert free_name("new", taken) == numbered_name("new", taken) == "new"


@pytest.mark.parametrize("module", [names, pooling])
def test_examples_run(module):
    outcome = doctest.testmod(module)
    assert (outcome.failed, outcome.attempted > 0) == (0, True)
