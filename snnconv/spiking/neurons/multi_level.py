"""Signed multi-level neurons: thresholds ±θ, ±θ/2, ±θ/4, …; the spike of a step has the largest level that v reaches.

Sources: Huang et al., ACM MM 2024 (expectation compensation); Huang et al., ICML 2025, arXiv 2503.00301 (differential coding).
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from spikingjelly.activation_based import base
from torch import Tensor

from snnconv.nn.kernels import fused
from snnconv.spiking.neurons.base import Neuron, Node, Threshold, per_channel, positive

ROUNDING = 1e-3  # tolerance in units of the smallest level, so that a rounded mean can still reach its bound


@fused
def largest_level(potential: Tensor, sent: Tensor, room: Tensor, levels: int, share: float) -> Tensor:
    """The spike of a step, in units of the smallest level: 0, ±1, ±2, ±4, …, ±2^(`levels` − 1).

    The spike has the largest level for which |`potential`| ≥ `share` · level.  A negative spike cancels earlier spikes, so its
    level is at most `sent`, their sum; the level of a positive spike is at most `room`.
    """
    spike = torch.zeros_like(potential)
    for k in range(levels):
        level = float(2**k)
        spike = torch.where((potential >= share * level) & (room >= level), level, spike)
        spike = torch.where((potential <= -share * level) & (sent >= level), -level, spike)
    return spike


class MultiLevelNode(Node):
    """v ← v + x;  v ← v − spike.  `unit` is the smallest level; the state `sent` is the sum of the spikes in units.

    `sent` is never negative unless the node is `signed`.
    """

    constants = ("v_initial", "levels", "share")
    signed = False

    def __init__(self, unit: Threshold, v_initial: float, levels: int, share: float) -> None:
        super().__init__(unit, v_initial, sent=0.0)
        self.levels, self.share = levels, share

    def fire(self, current: Tensor, v: Tensor, sent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes in units, v, and the sum of the spikes."""
        unit = self.threshold(v)
        charged = v + current
        without_bound = torch.full_like(sent, torch.inf)
        allowance = without_bound if self.signed else sent
        spike = largest_level(charged / unit, allowance, without_bound, self.levels, self.share)
        return spike.to(current.dtype), charged - unit * spike, sent + spike


class DifferentialNode(Node):
    """v ← v + x − m;  v ← v − spike;  m ← m + spike/t: a spike in step t changes the running mean m of the output by spike/t.

    x is the current computed from the transmitted means and their last changes.  m is stored in units and is at most `bound` (a
    value), the largest output of a clipped activation.
    """

    scalars = ("steps",)
    constants = ("v_initial", "levels", "share", "bound")
    signed = False

    def __init__(
        self, unit: Threshold, v_initial: float, levels: int, share: float, bound: Threshold = math.inf
    ) -> None:
        super().__init__(unit, v_initial, mean=0.0, steps=0.0)
        self.levels, self.share, self.bound = levels, share, bound

    def fire(self, current: Tensor, v: Tensor, mean: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Spikes in units, v, the running mean, and the number of steps."""
        unit, steps = self.threshold(v), steps + 1
        charged = v + current - unit * mean
        allowance = torch.full_like(mean, torch.inf) if self.signed else steps * mean
        bound = per_channel(self.bound.to(v), v) if isinstance(self.bound, Tensor) else self.bound
        room = steps * (bound / unit - mean) + ROUNDING
        spike = largest_level(charged / unit, allowance, room, self.levels, self.share)
        return spike.to(current.dtype), charged - unit * spike, mean + spike / steps, steps


class SignedMultiLevelNode(MultiLevelNode):
    """`MultiLevelNode` for currents of either sign: negative spikes are not limited."""

    signed = True


class SignedDifferentialNode(DifferentialNode):
    """`DifferentialNode` for currents of either sign: negative spikes are not limited."""

    signed = True


class Decoder(base.MemoryModule):
    """Reconstructs a signal from the changes of its running mean: o_t = s_t + m_{t−1}, m_t = m_{t−1} + s_t/t."""

    def __init__(self) -> None:
        super().__init__()
        self.register_memory("mean", None)
        self.register_memory("steps", None)

    mean: Any
    steps: Any

    def single_step_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """One timestep."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        started = self.mean is not None and self.mean.shape == x.shape
        before = self.mean.to(wide) if started else torch.zeros_like(wide)
        self.steps = self.steps.to(wide) + 1 if started else wide.new_ones(())
        self.mean = before + wide / self.steps
        return wide + before


class MultiLevel(Neuron):
    """Neuron for ReLU with `levels` levels: emits 0, ±θ, ±θ/2, … in a step, current [T, N, …] → spikes · level [T, N, …].

    It emits the largest level for which |v| ≥ `share` · level.  A negative spike cancels at most the sum of earlier spikes, so the
    sum of the output is never negative.  v(0) = `v_initial` · the smallest level.  ValueError for settings out of range.
    """

    node_class: type[Node] = MultiLevelNode

    def __init__(self, threshold: Any, levels: int = 4, share: float = 0.75, v_initial: float = 0.0) -> None:
        if type(levels) is not int or not 1 <= levels <= 16:
            raise ValueError(f"levels={levels!r}: must be an integer from 1 to 16 (thresholds of either sign)")
        if not 0.5 <= share <= 1:
            raise ValueError(f"share={share!r}: must be from 0.5 to 1 (fraction of a level at which the neuron fires)")
        theta = positive(threshold)
        unit = theta / 2 ** (levels - 1)
        super().__init__(theta, self.node_class(unit, v_initial, levels, share), amplitude=unit)  # type: ignore[call-arg]

    @property
    def value(self) -> Threshold:
        """The smallest level."""
        return self.threshold / 2 ** (self.node.levels - 1)  # type: ignore[operator]

    def limits(self, levels: int) -> tuple[Threshold, Threshold]:
        """Up to θ, from −θ if signed."""
        return (-self.threshold if self.node.signed else 0.0), self.threshold  # type: ignore[union-attr]


class Differential(MultiLevel):
    """`MultiLevel` with differential coding: a spike in step t changes the running mean of the output by level/t.

    The mean is at most `bound`, the largest value of a clipped activation.

    The output is the decoded signal, spike + mean so far, which the next layer would reconstruct from the spikes; `node` emits the
    transmitted spikes.
    """

    node_class = DifferentialNode
    graded = True  # its output is not a train of spikes of one amplitude

    def __init__(
        self, threshold: Any, levels: int = 4, share: float = 0.75, v_initial: float = 0.0, bound: Threshold = math.inf
    ) -> None:
        super().__init__(threshold, levels, share, v_initial)
        self.node.bound = bound  # type: ignore[assignment]
        self.decoder = Decoder()

    def limits(self, levels: int) -> tuple[Threshold, Threshold]:
        """Changes add up to any mean that `bound` allows."""
        return (-math.inf if self.node.signed else 0.0), self.node.bound  # type: ignore[union-attr, return-value]

    def forward(self, current: Float[Tensor, "T N *shape"]) -> Float[Tensor, "T N *shape"]:
        """The decoded signal of each timestep."""
        spikes = (
            self.node(current) if self.node.step_mode == "m" else torch.stack([self.node(step) for step in current])
        )
        decoded = torch.stack([self.decoder.single_step_forward(step) for step in spikes])
        return self._scaled(decoded, axis=2).to(current.dtype)


class SignedMultiLevel(MultiLevel):
    """Neuron for the identity: emits 0, ±θ, ±θ/2, … in a step, for signals of either sign.

    While |x| < θ, the sums of the outputs and of the inputs up to T differ by at most 3/4 of the smallest level.
    """

    node_class = SignedMultiLevelNode


class SignedDifferential(Differential):
    """`SignedMultiLevel` with differential coding."""

    node_class = SignedDifferentialNode
