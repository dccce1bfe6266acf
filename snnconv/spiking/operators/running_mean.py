"""Running mean: the mean output over time equals F of the mean input exactly, for any F.

Sources: Huang et al., ACM MM 2024 (expectation compensation); Huang et al., ICML 2025, arXiv 2503.00301.
"""

from typing import Any

from torch import Tensor, nn

from snnconv.spiking.operators.base import Operator


class RunningMean(Operator):
    """out_t = t·F(S_t/t) − (t−1)·F(S_{t−1}/(t−1)), where S_t is the sum of the inputs up to t (one sum for each signal).

    The sum of the outputs up to T is T·F(S_T/T).  F is evaluated once per step, in floating point; outputs are analog and of either
    sign.  A product of matrices A·B could instead be updated by ΔA·ΔB + A·ΔB + ΔA·B, but that needs two or three products per step
    and is slower in dense arithmetic.

    With `normalized` false, out_t = F(S_t) − F(S_{t−1}), for methods that divide the input into parts: the sum of the outputs is
    then F of the sum of the inputs.  Source: You et al., ICML 2024 (SpikeZIP-TF).
    """

    steps: Any
    total: Any

    def __init__(self, function: nn.Module, signals: int = 1, normalized: bool = True) -> None:
        super().__init__(function)
        self.normalized = normalized
        self.sums = [f"sum{number}" for number in range(signals)]
        for name in ("steps", "total", *self.sums):
            self.register_memory(name, None)

    def summary(self) -> str:
        """A line for the table of `check`."""
        return "running mean, floating point in every step"

    def step(self, *signals: Tensor) -> Tensor:
        """Difference of t·F(S_t/t) between this step and the previous one."""
        if len(signals) != len(self.sums):
            raise ValueError(f"{self.function}: expected {len(self.sums)} signals, got {len(signals)}")
        started = self.sum0 is not None and self.sum0.shape == signals[0].shape
        for name, signal in zip(self.sums, signals, strict=True):
            setattr(self, name, self.summed(name, signal))
        one = self.sum0.new_ones(())
        self.steps = self.steps.to(one) + 1 if started else one
        if self.normalized:
            total = self.steps * self.evaluate(*[getattr(self, name) / self.steps for name in self.sums])
        else:
            total = self.evaluate(*[getattr(self, name) for name in self.sums])
        previous, self.total = (self.total if started else self.first(total)), total
        return (total - previous).to(signals[0].dtype)

    def first(self, total: Tensor) -> Tensor | float:
        """The sum of outputs before the first step."""
        return 0.0
