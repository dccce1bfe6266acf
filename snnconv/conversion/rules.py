"""Rules that choose a threshold from observed activations: the largest, a percentile, least squares, Kullback-Leibler, normal."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from snnconv.nn.functional import closest_threshold

Samples = Float[Tensor, "*C M"]  # ReLU activations of one layer, or of each of its channels


Rule = Callable[[Samples, int], Float[Tensor, "*C"]]  # samples, levels → θ


def largest(samples: Samples, levels: int) -> Float[Tensor, "*C"]:
    """The largest activation: nothing is clipped.  Source: Diehl et al., IJCNN 2015 (max-norm)."""
    return samples.amax(-1)


def percentile(samples: Samples, levels: int, percent: float = 99.9) -> Float[Tensor, "*C"]:
    """The `percent`-th percentile of the activations, zeros included.

    Source: Rueckauer et al., Front. Neurosci. 2017 (robust norm).  ValueError for so few activations that it would be the largest.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent={percent}: must be above 0 and at most 100")
    fewest = math.ceil(100 / (100 - percent) - 1e-6) if percent < 100 else 1
    if samples.shape[-1] < fewest:
        raise ValueError(f"percent={percent}: needs at least {fewest} activations, got {samples.shape[-1]}; use more "
                         "images (data.calibration), a lower percent, or the largest activation (method=max_norm)")  # fmt: skip
    rank = -int(-samples.shape[-1] * percent // 100)  # rounded up
    return samples.kthvalue(max(rank, 1), dim=-1).values


def least_squares(samples: Samples, levels: int, candidates: int = 100) -> Float[Tensor, "*C"]:
    """The θ that minimizes Σ (relu(z) − qcfs(z, θ, L))², L = `levels`, among k/`candidates` of the largest activation.

    Computed by `functional.closest_threshold`.  Source: Li et al., ICML 2021 (SNN calibration), with 95 candidates and the
    clip-floor function of T steps in place of QCFS.
    """
    if candidates < 1:
        raise ValueError(f"candidates={candidates}: must be at least 1")
    if samples.dim() > 1:
        return torch.stack([least_squares(channel, levels, candidates) for channel in samples])
    return closest_threshold(samples, levels, candidates)


def kullback_leibler(samples: Samples, levels: int, candidates: int = 128, bins: int = 2048) -> Float[Tensor, "*C"]:
    """The θ that minimizes Σ P log(P/Q) among k/`candidates` of the largest activation, k = 1, 2, …: entropy calibration.

    P and Q are computed from a histogram of the positive activations in `bins` equal bins (zero is exact for every θ):
    P   the bins below θ; the last of them also holds all clipped activations,
    Q   the same bins in `levels` groups of equal width; the content of a group is spread evenly over its non-empty bins.
    10⁻⁴ is added to every bin of Q, so that the divergence stays finite when activations are clipped into an empty bin.
    Candidates with fewer than `levels` bins are skipped.

    Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017; smoothing after MXNet's quantization.
    """
    if not 1 <= candidates <= bins or levels > bins:
        raise ValueError(f"candidates={candidates}, bins={bins}: needs at least 1 candidate, and as many bins as candidates "
                         f"and levels ({levels}) or more")  # fmt: skip
    if samples.dim() > 1:
        return torch.stack([kullback_leibler(channel, levels, candidates, bins) for channel in samples])
    top = samples.max()
    if not top > 0:
        return top
    positive = samples[samples > 0].double()
    histogram = torch.bincount((positive / top * bins).long().clamp_max(bins - 1), minlength=bins).double()
    place = torch.arange(bins, device=samples.device)
    ends = bins * torch.arange(1, candidates + 1, device=samples.device) // candidates
    ends = ends[ends >= levels].unsqueeze(1)  # [K, 1]
    inside = histogram * (place < ends)  # [K, bins]
    group = (place * levels // ends).clamp_max(levels - 1)
    empty = torch.zeros(len(ends), levels, dtype=torch.float64, device=samples.device)
    means = empty.scatter_add(1, group, inside) / empty.scatter_add(1, group, inside.sign()).clamp_min(1)
    q = (means.gather(1, group) * inside.sign() + 1e-4) * (place < ends)
    p = inside.scatter_add(1, ends - 1, len(positive) - inside.sum(1, keepdim=True)) / len(positive)
    divergence = torch.special.xlogy(p, p * q.sum(1, keepdim=True) / q.clamp_min(1e-4)).sum(1)
    return top * ends[divergence.argmin()].item() / bins


def normal(samples: Float[Tensor, "*C M"], levels: int, iterations: int = 100) -> Float[Tensor, "*C"]:
    """The θ that minimizes E (relu(x) − θ·k/L)² for x ~ N(μ, σ²) and k = clip(floor(L·x/θ + ½), 0, L), L = `levels`.

    `samples` are the currents x, of either sign; only their mean μ and deviation σ are used, so one outlier does not set θ.  Fixed
    point of θ ← L·E[x·k]/E[k²], `iterations` times from θ = μ + 3σ, in closed form with c_i = (2i − 1)·θ/2L, i = 1 … L:
    E[x·k] = Σ E[x·1(x ≥ c_i)], E[k²] = Σ (2i − 1)·P(x ≥ c_i).

    Source: Huang et al., ICML 2025 (DCGS; threshold iteration), whose code starts from θ = 1.
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations}: must be at least 1")
    x = samples.double()
    mean, deviation = x.mean(-1, keepdim=True), x.std(-1, correction=0, keepdim=True)
    odd = 2 * torch.arange(1, levels + 1, device=x.device, dtype=x.dtype) - 1
    theta = mean + 3 * deviation
    for _ in range(iterations):
        z = (odd / (2 * levels) * theta - mean) / deviation
        above = torch.special.erfc(z / math.sqrt(2)) / 2  # P(x ≥ c_i)
        density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
        theta = (
            levels * (mean * above + deviation * density).sum(-1, keepdim=True) / (odd * above).sum(-1, keepdim=True)
        )
    constant = mean.clamp_min(0)  # without deviation, θ is the value itself
    return (
        torch.where(deviation > 0, theta.nan_to_num(0.0, 0.0, 0.0).clamp_min(0), constant).squeeze(-1).to(samples.dtype)
    )


setattr(normal, "of_currents", True)  # noqa: B010   (read by `of_currents`)


def of_currents(rule: Rule) -> bool:
    """Whether `rule` is computed from the currents before the ReLU instead of from its outputs."""
    return bool(getattr(rule, "of_currents", getattr(getattr(rule, "func", None), "of_currents", False)))


RULES: dict[str, Rule] = {
    "max": largest,
    "percentile": percentile,
    "mse": least_squares,
    "kl": kullback_leibler,
    "normal": normal,
}
