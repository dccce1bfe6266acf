"""The soft-reset integrate-and-fire neuron of rate-coded conversion."""

from typing import Any

import torch
from jaxtyping import Float
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from snnconv import functional


class IntegrateFireNode(neuron.IFNode):
    """SpikingJelly's IF node with soft reset, v(0) given, and a membrane that is float32 whatever the input's precision.

    v += x;  spike = 1[v ≥ θ];  v −= θ·spike.  Emits spikes, 0 or 1.  The parent's fused multi-step kernel serves CUDA; a single
    step without gradients is one pass over memory here (`functional.integrate_fire`), with the same result.
    """

    def __init__(self, threshold: float, v_initial: float) -> None:
        super().__init__(v_threshold=threshold, v_reset=None, step_mode="m")
        self.set_reset_value("v", v_initial)
        self.reset()
        self._theta = torch.tensor(threshold, dtype=torch.float64)  # a constant of the kernel, not of its code

    def materialize_states(self, inputs: tuple, states: tuple, step_mode: str) -> tuple:
        """The membrane potential as a tensor: kept while its shape fits, else v(0)."""
        step = inputs[0][0] if step_mode == "m" else inputs[0]
        dtype = torch.float64 if step.dtype == torch.float64 else torch.float32
        v, *rest = states
        if isinstance(v, Tensor) and v.shape == step.shape:
            return (v.to(step.device, dtype), *rest)
        return (torch.full_like(step, self.get_reset_value("v"), dtype=dtype, requires_grad=False), *rest)

    def single_step_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Spikes of one timestep."""
        if torch.is_grad_enabled() or self.store_v_seq:
            return super().single_step_forward(x, *args, **kwargs)
        (v,) = self.materialize_states((x,), tuple(self._memories.values()), "s")
        spikes, self._memories["v"] = functional.integrate_fire(x, v, self._theta)
        return spikes


class IntegrateFire(nn.Module):
    """Integrate-and-fire with threshold θ: current [T, N, …] → θ·spikes [T, N, …].

    `v_initial` is v(0) as a fraction of θ; ½ makes the expected conversion error zero (Bu et al., AAAI 2022).  State carries
    over to the next call until SpikingJelly's `functional.reset_net`.  `amplitude` is what a spike counts in the output: θ,
    or 1 where θ has been folded into the weights that follow (`spiking.fold_thresholds`).
    """

    def __init__(self, threshold: float, v_initial: float = 0.5) -> None:
        super().__init__()
        if not threshold > 0:
            raise ValueError(f"threshold={threshold!r}: θ is a positive number")
        self.threshold = self.amplitude = float(threshold)
        self.node = IntegrateFireNode(self.threshold, v_initial * self.threshold)

    def forward(self, current: Float[Tensor, "T N *shape"]) -> Float[Tensor, "T N *shape"]:
        """θ·spikes of each timestep."""
        if self.node.step_mode == "m":
            return self._scaled(self.node(current))
        steps = [self._scaled(self.node(step)) for step in current]
        return steps[0].unsqueeze(0) if len(steps) == 1 else torch.stack(steps)

    def _scaled(self, spikes: Tensor) -> Tensor:
        return spikes if self.amplitude == 1 else self.amplitude * spikes

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        return f"threshold={self.threshold:.4g}"
