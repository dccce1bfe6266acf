"""The soft-reset integrate-and-fire neuron of rate-coded conversion."""

from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor

from snnconv.nn import functional
from snnconv.nn.kernels import is_hooked
from snnconv.spiking.neurons.base import Neuron, Node, Threshold, finite, positive


class IntegrateFireNode(neuron.IFNode):
    """SpikingJelly's IF node with soft reset, a given v(0), and a float32 membrane for inputs of any lower precision.

    v += x;  spike = 1[v ≥ θ];  v −= θ·spike.  Emits spikes 0 or 1.  On CUDA the parent's fused multi-step kernel is used; a single
    step without gradients reads memory once (`functional.integrate_fire`) and has the same result.
    """

    constants = ("v_initial",)  # of its neuron

    def __init__(self, threshold: float, v_initial: float) -> None:
        super().__init__(v_threshold=threshold, v_reset=None, step_mode="m")
        self.set_reset_value("v", v_initial)
        self.reset()
        self._theta = torch.tensor(threshold, dtype=torch.float64)  # a constant of the kernel, not of its code

    def materialize_states(self, inputs: tuple, states: tuple, step_mode: str) -> tuple:
        """The membrane potential as a tensor: unchanged if it has the shape of the batch, else v(0)."""
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
        return self.step(x, None)

    def step(self, x: Tensor, amplitude: Tensor | None) -> Tensor:
        """Spikes of one timestep, or amplitude · spikes, without gradients."""
        (v,) = self.materialize_states((x,), tuple(self._memories.values()), "s")
        spikes, self._memories["v"] = functional.integrate_fire(x, v, self._theta, amplitude)
        return spikes


class VariedIntegrateFireNode(Node):
    """`IntegrateFireNode` with a different θ for each channel, or a different v(0) for each neuron."""

    def fire(self, current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes (0 or 1) and v."""
        return functional.integrate_fire(current, v, self.threshold(v))


class IntegrateFire(Neuron):
    """Integrate-and-fire with threshold θ: current [T, N, …] → θ·spikes [T, N, …].

    `threshold` is a number or [C], one θ per channel.  `v_initial` is v(0) as a fraction of θ: a number, or a tensor of the layer's
    shape; with ½ the expected conversion error is zero (Bu et al., AAAI 2022).
    """

    def __init__(self, threshold: Any, v_initial: float | Tensor = 0.5) -> None:
        theta: Threshold = positive(threshold)
        finite(v_initial)
        plain = isinstance(theta, float) and not isinstance(v_initial, Tensor)
        node = IntegrateFireNode(theta, v_initial * theta) if plain else VariedIntegrateFireNode(theta, v_initial)  # type: ignore[arg-type]
        super().__init__(theta, node)
        self.v_initial = v_initial

    def _step(self, current: Tensor) -> Tensor:
        node, amplitude = self.node, self.amplitude
        if (
            type(node) is not IntegrateFireNode
            or isinstance(amplitude, Tensor)
            or torch.is_grad_enabled()
            or node.store_v_seq
            or is_hooked(node)
        ):
            return super()._step(current)
        return node.step(current, torch.tensor(amplitude, dtype=torch.float64, device="cpu"))  # one pass over memory
