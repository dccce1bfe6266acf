"""The soft-reset integrate-and-fire neuron of rate-coded conversion."""

import torch
from jaxtyping import Float
from spikingjelly.activation_based import neuron
from torch import Tensor, nn


class IntegrateFireNode(neuron.IFNode):
    """SpikingJelly's IF node with soft reset, v(0) given, and a membrane that is float32 whatever the input's precision.

    v += x;  spike = 1[v ≥ θ];  v −= θ·spike.  Emits spikes, 0 or 1.  Only the state's shape, dtype and first value differ
    from the parent, which therefore keeps its fused multi-step kernel on CUDA.
    """

    def __init__(self, threshold: float, v_initial: float) -> None:
        super().__init__(v_threshold=threshold, v_reset=None, step_mode="m")
        self.set_reset_value("v", v_initial)
        self.reset()

    def materialize_states(self, inputs: tuple, states: tuple, step_mode: str) -> tuple:
        """The membrane potential as a tensor: kept while its shape fits, else v(0)."""
        step = inputs[0][0] if step_mode == "m" else inputs[0]
        dtype = torch.float64 if step.dtype == torch.float64 else torch.float32
        v, *rest = states
        if isinstance(v, Tensor) and v.shape == step.shape:
            return (v.to(step.device, dtype), *rest)
        return (torch.full_like(step, self.get_reset_value("v"), dtype=dtype, requires_grad=False), *rest)


class IntegrateFire(nn.Module):
    """Integrate-and-fire with threshold θ: current [T, N, …] → θ·spikes [T, N, …].

    `v_initial` is v(0) as a fraction of θ; ½ makes the expected conversion error zero (Bu et al., AAAI 2022).  State carries
    over to the next call until SpikingJelly's `functional.reset_net`.
    """

    def __init__(self, threshold: float, v_initial: float = 0.5) -> None:
        super().__init__()
        if not threshold > 0:
            raise ValueError(f"threshold={threshold!r}: θ is a positive number")
        self.threshold = float(threshold)
        self.node = IntegrateFireNode(self.threshold, v_initial * self.threshold)

    def forward(self, current: Float[Tensor, "T N *shape"]) -> Float[Tensor, "T N *shape"]:
        """θ·spikes of each timestep."""
        if self.node.step_mode == "m":
            return self.threshold * self.node(current)
        steps = [self.threshold * self.node(step) for step in current]
        return steps[0].unsqueeze(0) if len(steps) == 1 else torch.stack(steps)

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        return f"threshold={self.threshold:.4g}"
