"""Sums over the outputs of one layer, from which its errors are computed.

On a CPU they are computed in parts that stay in the cache, from operations on floating-point numbers, which are faster than
comparisons.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from snnconv.nn.functional import ConversionErrors, conversion_errors, spike_count
from snnconv.spiking.neurons.base import Threshold, per_channel

PARTS = ConversionErrors._fields
OFFSETS = (-2, -1, 0, 1, 2)
IN_CACHE = 2**17  # elements of a layer that are processed together on a CPU
EXACT = 2**22  # the same elsewhere: sums of small integers over so many elements are exact in float32


def error_sums(
    a: Tensor,
    output: Tensor,
    meant: Tensor,
    even: Tensor,
    *,
    low: Threshold,
    high: Threshold,
    theta: Threshold,
    missing: Tensor,
) -> Tensor:
    """[3 + 3·parts + 5] sums in float64: a², saturated outputs, |output| / θ; each part of the error and the total, then their
    products with the total, then their squares; numbers of outputs with −2, −1, 0, 1, 2 spikes too few.

    a, output, meant, even, low and high are those of `functional.conversion_errors`; `missing` is even − output in spikes.
    """
    total = a - output
    parts = (*conversion_errors(a, high, meant, even, output, low), total)
    full = output >= high * (1 - 1e-4)
    if bool((torch.as_tensor(low) < 0).any()):
        full |= (output < 0) & (output <= low * (1 - 1e-4))
    sums = [a.square().sum(), full.sum(), (output / theta).abs().sum(), *(part.sum() for part in parts),
            *((part * total).sum() for part in parts), *(part.square().sum() for part in parts)]  # fmt: skip
    return torch.stack([value.double() for value in (*sums, *_offset_counts(missing))])


def _offset_counts(missing: Tensor) -> list[Tensor]:
    """Number of elements of `missing`, which are integers, that are −2 or less, −1, 0, 1, and 2 or more."""
    count = missing.numel()
    two, one = (missing.clamp(k - 1, k).sum() - (k - 1) * count for k in (2, 1))  # at least k
    minus_two, minus_one = (-missing.clamp(-k, 1 - k).sum() - (k - 1) * count for k in (2, 1))
    return [minus_two, minus_one - minus_two, count - minus_one - one, one - two, two]


def constant_current_sums(
    z: Tensor,
    a: Tensor,
    emitted: Tensor,
    v: Tensor,
    *,
    theta: Threshold,
    high: Threshold,
    timesteps: int,
    v_initial: float,
) -> tuple[Tensor, Tensor]:
    """`error_sums` of a soft-reset integrate-and-fire neuron, and the number of residual potentials.

    `emitted` is its number of spikes and `v` its potential after T steps.  Its mean current is (v − v(0) + θ · emitted) / T, so
    the same current without variation emits floor(v/θ) spikes more, within 0…T.  A potential is residual if it is not in [0, θ)
    although a spike could be removed or added, that is, if these two numbers of spikes differ.
    """
    emitted = emitted.round()
    even = (emitted + (v / theta).floor()).clamp(0, timesteps)
    counts = (emitted, spike_count(z, theta, timesteps, v_initial), even)
    output, meant, constant = (theta * count / timesteps for count in counts)
    sums = error_sums(a, output, meant, constant, low=0.0, high=high, theta=theta, missing=even - emitted)
    return sums, a.numel() - sums[-3]


def in_parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors, each [N, …], in parts of some images."""
    first = tensors[0]
    most = IN_CACHE if first.device.type == "cpu" else EXACT
    together = max(1, most // max(1, first[:1].numel()))
    yield from zip(*(tensor.split(together) for tensor in tensors), strict=True)


def along_channels(value: Threshold, like: Tensor) -> Threshold:
    """`value`, which broadcasts along the channels of `like` [N, C, …] if it has one number for each."""
    return per_channel(value.to(like), like) if isinstance(value, Tensor) else value
