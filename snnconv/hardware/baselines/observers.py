"""Observers of value ranges: those of torchao, those that use the rules of `conversion.rules`, and one range per image."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.conversion import rules
from snnconv.conversion.rules import Rule

_talker = logging.getLogger(
    "torch.utils._pytree"
)  # torchao logs warnings through it when it is imported; Python also warns about torchao's strings
_level = _talker.level
_talker.setLevel(logging.ERROR)
try:
    with warnings.catch_warnings(action="ignore"):
        from torchao.quantization.pt2e.fake_quantize import FakeQuantize
        from torchao.quantization.pt2e.observer import (
            MinMaxObserver,
            MovingAverageMinMaxObserver,
            PerChannelMinMaxObserver,
            UniformQuantizationObserverBase,
        )
        from torchao.quantization.quant_primitives import (
            MappingType,
            choose_qparams_affine,
            dequantize_affine,
            quantize_affine,
        )
except ImportError as error:
    raise ImportError(f"baseline=…: needs torchao ({error}); pip install 'snnconv[quantize]'") from error
finally:
    _talker.setLevel(_level)

OBSERVERS = ("min_max", "moving_average", "percentile", "mse", "kl")
WEIGHT_OBSERVERS = ("min_max", "mse")


@dataclass(frozen=True)
class Integers:
    """Range of integers with `bits` bits: symmetric, −q…q with q = 2^(bits−1) − 1, or affine, 0…2^bits − 1 with a zero point."""

    bits: int
    symmetric: bool

    @property
    def low(self) -> int:
        """The smallest integer."""
        return -self.high if self.symmetric else 0

    @property
    def high(self) -> int:
        """The largest integer, which is also the number of levels above zero."""
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1

    def options(self, per_channel: bool = False) -> dict[str, Any]:
        """The settings with torchao's names."""
        scheme = f"per_{'channel' if per_channel else 'tensor'}_{'symmetric' if self.symmetric else 'affine'}"
        options = {
            "dtype": torch.int32,
            "qscheme": getattr(torch, scheme),
            "quant_min": self.low,
            "quant_max": self.high,
        }
        return {**options, "ch_axis": 0} if per_channel else options


class RuleObserver(UniformQuantizationObserverBase):
    """Observes activations [N, …], or weights [C, …] with one range per channel; a rule computes the range from the samples.

    Symmetric: ±rule(|x|, q).  Affine: the rule is applied separately to positive and negative values, each with its share of the
    levels.  `per_image` random values of each image are stored (None: all), and the extremes of each batch.
    """

    def __init__(
        self,
        rule: Callable[[Tensor, Tensor], Tensor],  # samples [C, M], levels [C] → [C]
        per_image: int | None = None,
        ch_axis: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.rule, self.per_image = rule, per_image
        self.ch_axis = -1 if ch_axis is None else ch_axis
        self.symmetric = options["qscheme"] in (torch.per_tensor_symmetric, torch.per_channel_symmetric)
        self.samples: list[Tensor] = []
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        """Store samples of `x` and return `x`."""
        values = x.detach().float().flatten(1)
        if self.ch_axis == 0:
            self.samples.append(values)
            return x
        if self.per_image is not None and values.shape[1] > self.per_image:
            self.samples.append(torch.stack(values.aminmax()).unsqueeze(0))
            places = torch.randperm(values.shape[1], generator=self.generator)[: self.per_image]
            values = values[:, places.to(values.device)]
        self.samples.append(values.flatten().unsqueeze(0))
        return x

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scale and zero point, [1] or [C]; ValueError if the rule gives an empty range for values that are not all zero."""
        samples = torch.cat(self.samples, 1)
        low, high = self._range(samples)
        if (samples.any(1) & (high <= low)).any():
            raise ValueError(
                "almost every value is 0, so the rule gives an empty range; use observer=min_max or a higher percent"
            )
        return self._calculate_qparams(*((low, high) if self.ch_axis == 0 else (low.squeeze(0), high.squeeze(0))))

    def _range(self, samples: Float[Tensor, "C M"]) -> tuple[Tensor, Tensor]:
        if self.symmetric:
            top = self._end(samples.abs(), torch.full_like(samples[:, 0], self.quant_max))
            return -top, top
        above, below, levels = samples.clamp_min(0), (-samples).clamp_min(0), self.quant_max - self.quant_min
        share = (above.amax(1) / (above.amax(1) + below.amax(1)).clamp_min(1e-30) * levels).round()
        return -self._end(below, levels - share), self._end(above, share)

    def _end(self, samples: Float[Tensor, "C M"], levels: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
        """The threshold that the rule gives for values of one sign; 0 without values."""
        thresholds, levels = torch.zeros_like(levels), levels.clamp_min(1)
        there = samples.amax(1) > 0
        if there.any():
            thresholds[there] = self.rule(samples[there], levels[there]).to(thresholds)
        return thresholds


def least_squares(
    samples: Float[Tensor, "C M"], levels: Float[Tensor, " C"], candidates: int = 100
) -> Float[Tensor, " C"]:
    """`rules.least_squares` for all channels together, with a number of levels for each channel."""
    top, levels = samples.amax(1, keepdim=True), levels.unsqueeze(1)
    best, thresholds = torch.full_like(top, torch.inf), top.clone()
    for k in range(1, candidates + 1):
        theta = top * k / candidates
        steps = torch.minimum((samples * levels / theta + 0.5).floor(), levels)
        error = (samples - theta * (steps / levels)).double().square().sum(1, keepdim=True).to(best)
        thresholds, best = torch.where(error < best, theta, thresholds), torch.minimum(error, best)
    return thresholds.squeeze(1)


def _of_one(rule: Rule) -> Callable[[Tensor, Tensor], Tensor]:
    """`rule`, applied to samples [1, M]."""
    return lambda samples, levels: torch.as_tensor(rule(samples[0], int(levels))).reshape(1)


def weight_observer(name: str, integers: Integers, per_channel: bool) -> nn.Module:
    """An observer of the range of the weights of one layer, or of each output channel."""
    options = integers.options(per_channel)
    if name == "mse":
        return RuleObserver(least_squares, **options)
    return (PerChannelMinMaxObserver if per_channel else MinMaxObserver)(**options)


def activation_observer(name: str, integers: Integers, *, momentum: float, percent: float, per_image: int) -> nn.Module:
    """An observer of the range of the values at one place of a network.  KeyError for an unknown name."""
    by_name: dict[str, Rule] = {
        "percentile": partial(rules.percentile, percent=percent),
        "mse": rules.least_squares,
        "kl": rules.kullback_leibler,
    }
    make: dict[str, Callable[..., nn.Module]] = {
        "min_max": MinMaxObserver,
        "moving_average": partial(MovingAverageMinMaxObserver, averaging_constant=1 - momentum),
        **{key: partial(RuleObserver, _of_one(rule), per_image) for key, rule in by_name.items()},
    }
    return make[name](**integers.options())


@torch.no_grad()
def settled(observer: Any) -> FakeQuantize:
    """torchao's fake quantization with the range of `observer`; a straight-through gradient inside the range."""
    quantize = FakeQuantize(lambda **_: observer)
    scale, zero_point = observer.calculate_qparams()
    quantize.scale, quantize.zero_point = scale.float(), zero_point.to(torch.int32)
    quantize.disable_observer()
    return quantize


class PerImage(nn.Module):
    """Fake quantization of [N, …] with the range of each image, computed at run time (dynamic quantization)."""

    def __init__(self, integers: Integers) -> None:
        super().__init__()
        self.integers = integers
        self.mapping = MappingType.SYMMETRIC if integers.symmetric else MappingType.ASYMMETRIC

    def forward(self, x: Float[Tensor, "N *shape"]) -> Float[Tensor, "N *shape"]:
        """Quantized values: integers times the scale of their image."""
        block, low, high = (1, *x.shape[1:]), self.integers.low, self.integers.high
        scale, zero_point = choose_qparams_affine(x, self.mapping, block, torch.int32, low, high)
        integers = quantize_affine(x, block, scale, zero_point, torch.int32, low, high)
        return dequantize_affine(integers, block, scale, zero_point, torch.int32, low, high, output_dtype=x.dtype)
