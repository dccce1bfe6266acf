"""Base classes of the encoders."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Range = float | Sequence[float] | None  # of values: one number, or one for each channel


class InputEncoder(ABC):
    """Base class: encodes a batch of inputs [N, C, …] as the input of every step."""

    name = "direct"

    def settings(self) -> dict[str, Any]:
        """The arguments from which an equal encoder is made, as plain data."""
        values = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in values.items()}

    def fitted(self, batches: Iterable[tuple[Tensor, Any]]) -> "InputEncoder":
        """This encoder, adapted to calibration inputs if it needs them."""
        return self

    @abstractmethod
    def encode(self, inputs: Float[Tensor, "N *_"], first: int, steps: int) -> Float[Tensor, "t *_"]:
        """The inputs of steps `first`, …, `first` + `steps` − 1 (the first step has number 0), [t, N, C, …]."""


class SpikeCode(InputEncoder):
    """Base class of encoders that represent inputs by spikes.

    Let r = (value − low) / (high − low), clipped to [0, 1].  The spikes have mean r over time, and the input of a step is
    low + (high − low) · spike, so normalization remains part of the first layer.  `low` and `high` are numbers; by default they are
    the smallest and largest calibration input of each channel.
    """

    def __init__(self, low: Range = None, high: Range = None) -> None:
        self.low: Any = low
        self.high: Any = high
        if low is not None and high is not None:
            width = torch.as_tensor(high) - torch.as_tensor(low)
            if (width < 0).any() or (width.dim() == 0 and width == 0):  # of several channels some may be constant
                raise ValueError(f"encoder: low={low}, high={high}: high must be larger than low")

    def fitted(self, batches: Iterable[tuple[Tensor, Any]]) -> InputEncoder:
        """A copy with the range of every channel of `batches`, or self if the range was given; ValueError without batches."""
        if self.low is not None and self.high is not None:
            return self
        lows, highs = [], []
        for inputs, _ in batches:
            flat = inputs.transpose(0, 1).flatten(1)
            lows.append(flat.amin(1))
            highs.append(flat.amax(1))
        if not lows:
            raise ValueError(
                f"encoder={self.name}: needs calibration inputs to set its range; pass them, or set encoder.low and encoder.high"
            )
        fitted = copy.copy(self)
        fitted.low = torch.stack(lows).amin(0) if self.low is None else self.low
        fitted.high = torch.stack(highs).amax(0) if self.high is None else self.high
        return fitted

    def encode(self, inputs: Float[Tensor, "N *_"], first: int, steps: int) -> Float[Tensor, "t *_"]:
        """The inputs of these steps, from the weighted spikes."""
        low, high = (self._by_channel(value, inputs) for value in (self.low, self.high))
        width = (high - low).clamp_min(torch.finfo(inputs.dtype).tiny)
        fraction = ((inputs - low) / width).clamp(0, 1)
        return torch.stack([low + (high - low) * self.spikes(fraction, t) for t in range(first, first + steps)])

    @abstractmethod
    def spikes(self, fraction: Float[Tensor, "N *_"], t: int) -> Float[Tensor, "N *_"]:
        """The weighted spikes of step number t, for inputs in 0…1."""

    @staticmethod
    def _by_channel(value: Any, like: Tensor) -> Tensor:
        numbers = torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1)
        return numbers.view(-1, *[1] * (like.dim() - 2))
