"""Base classes of the spiking neurons: `Node`, which emits integer spikes, and `Neuron`, which scales them by an amplitude."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

Threshold = float | Tensor  # one θ for the layer, or [C], one a channel


def per_channel(values: Tensor, like: Tensor, axis: int = 1) -> Tensor:
    """`values` [C] shaped for broadcasting along `axis` of `like`; a single number is unchanged."""
    return values.view(-1, *[1] * (like.dim() - axis - 1)) if values.dim() == 1 else values


class Node(neuron.BaseNode):
    """Base class of SpikingJelly nodes; subclasses define one step, `fire(current, *states) -> (spikes, *states)`.

    `threshold` is θ or [C], v(0) = `v_initial` · θ; `v_initial` may have the shape of the layer (without the batch).  `states`
    are further state variables and their initial values; a state named in `scalars` is one number for all neurons, such as a count
    of steps.  `constants` lists the attributes that the node is constructed with.  Spikes are integers in the dtype of the current;
    states are float32 (float64 for float64 currents).  Several steps are computed one by one, so both step modes emit the same
    spikes.
    """

    scalars: tuple[str, ...] = ()
    constants: tuple[str, ...] = ("v_initial",)

    def __init__(self, threshold: Threshold, v_initial: float | Tensor = 0.5, **states: float) -> None:
        super().__init__(v_threshold=1.0, v_reset=None, step_mode="m")
        self.theta = torch.as_tensor(
            threshold, dtype=torch.float64
        )  # plain attributes, so rounding the weights does not change them
        self.v_initial = finite(v_initial)
        for name, value in states.items():
            self.register_memory(name, value)

    fire: Callable[..., tuple[Tensor, ...]]

    def threshold(self, v: Tensor) -> Tensor:
        """θ in the dtype of `v`, shaped for its channels."""
        return per_channel(self.theta.to(v.dtype), v) if self.theta.dim() else self.theta

    def materialize_states(self, inputs: tuple, states: tuple, step_mode: str) -> tuple:
        """Every state as a tensor: unchanged if the potential (the first state) fits the batch, else its initial value."""
        step = inputs[0][0] if step_mode == "m" else inputs[0]
        dtype = torch.float64 if step.dtype == torch.float64 else torch.float32
        if self.theta.dim() or self.v_initial.dim():
            self.theta, self.v_initial = self.theta.to(step.device), self.v_initial.to(step.device)
        continues, one = self.fits(states, step), step.new_zeros(())
        return tuple(
            value.to(step.device, dtype)
            if continues and isinstance(value, Tensor)
            else torch.zeros_like(one if name in self.scalars else step, dtype=dtype) + self._first(name, step)
            for name, value in zip(self._memories, states, strict=True)
        )

    def fits(self, states: tuple, step: Tensor) -> bool:
        """Whether `states` belong to the batch of `step`; False after a reset."""
        return isinstance(states[0], Tensor) and states[0].shape == step.shape

    def _first(self, name: str, step: Tensor) -> Tensor | float:
        if name != "v":
            return self.get_reset_value(name)  # type: ignore[return-value]
        first = self.v_initial * per_channel(self.theta, step)
        return first.to(torch.float64 if step.dtype == torch.float64 else torch.float32)

    def single_step_functional_forward(self, inputs: tuple, states: tuple, **kwargs: Any) -> tuple:
        """One step, for SpikingJelly's machinery."""
        spikes, *states_after = self.fire(inputs[0], *states)
        return (spikes,), tuple(states_after)


class Neuron(nn.Module):
    """A node whose spikes have an amplitude: current [T, N, …] → amplitude · spikes [T, N, …].

    `amplitude` is θ by default, and 1 if it has been folded into the next weights (`folding.fold_amplitudes`).  The state is kept
    between calls until SpikingJelly's `functional.reset_net`.

    `state_dict()` holds the class of the neuron and its `constants` (θ, amplitude, v(0)/θ, …).  Loading compares them with the
    constants of this neuron and reports every difference, so weights cannot be loaded into a different conversion.
    """

    constants: tuple[str, ...] = ("threshold", "amplitude")

    def __init__(self, threshold: Threshold, node: nn.Module, amplitude: Threshold | None = None) -> None:
        super().__init__()
        self.threshold = threshold
        self.amplitude = threshold if amplitude is None else amplitude
        self.node = node

    def forward(self, current: Float[Tensor, "T N *shape"]) -> Float[Tensor, "T N *shape"]:
        """amplitude · spikes of each timestep."""
        if self.node.step_mode == "m":
            return self._scaled(self.node(current), axis=2)
        steps = [self._step(step) for step in current]
        return steps[0].unsqueeze(0) if len(steps) == 1 else torch.stack(steps)

    @property
    def value(self) -> Threshold:
        """The amplitude of a spike, folded or not."""
        return self.threshold

    def limits(self, levels: int) -> tuple[Threshold, Threshold]:
        """The smallest and the largest mean output, for spikes of up to `levels` levels a step, with `value` as the amplitude."""
        return 0.0, levels * self.value

    def _step(self, current: Tensor) -> Tensor:
        return self._scaled(self.node(current), axis=1)

    def _scaled(self, spikes: Tensor, axis: int) -> Tensor:
        if isinstance(self.amplitude, Tensor):
            return spikes * per_channel(beside(self, "amplitude", spikes), spikes, axis)
        return spikes if self.amplitude == 1 else self.amplitude * spikes

    def _constants(self) -> dict[str, Tensor]:
        """The constants as tensors on the CPU, and the name of the class as bytes."""
        owners = dict.fromkeys(self.constants, self)
        owners |= {name: self if hasattr(self, name) else self.node for name in getattr(self.node, "constants", ())}  # type: ignore[misc]
        values = {name: torch.as_tensor(getattr(owner, name), dtype=torch.float64) for name, owner in owners.items()}
        kind = torch.tensor(list(type(self).__name__.encode()), dtype=torch.uint8)
        return {"kind": kind, **{name: value.detach().cpu().clone() for name, value in values.items()}}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: value for name, value in self._constants().items()})

    def _load_from_state_dict(  # type: ignore[no-untyped-def]
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        constants = {prefix + name: value for name, value in self._constants().items()}
        others = {key: value for key, value in state_dict.items() if key.startswith(prefix) and key not in constants}
        super()._load_from_state_dict(others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        for key, here in constants.items():
            if key not in state_dict:
                missing_keys += [key] if strict else []
            elif here.shape != state_dict[key].shape or not torch.equal(here, state_dict[key].cpu().to(here)):
                error_msgs.append(
                    f"{key}: {_described(here)} in this model, {_described(state_dict[key])} in the state to load; "
                    "constants are not loaded; convert with the same method, settings and thresholds"
                )

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        return f"threshold={self.threshold:.4g}" if isinstance(self.threshold, float) else "threshold per channel"


def beside(neuron: nn.Module, name: str, like: Tensor) -> Tensor:
    """The tensor `neuron.name` in the dtype and on the device of `like`.

    A copy on another device is kept, because copying it again in every step would wait for the device.
    """
    value = getattr(neuron, name)
    if value.device == like.device:
        return value.to(like)
    copies = neuron.__dict__.setdefault("_copies", {})  # by name: the tensor, and its copy
    source, copy = copies.get(name, (None, value))
    if source is not value or copy.device != like.device or copy.dtype != like.dtype:
        copies[name] = value, value.to(like)
    return copies[name][1]


def _described(constant: Tensor) -> str:
    """A constant of a neuron, as text."""
    if constant.dtype == torch.uint8:
        return bytes(constant.tolist()).decode(errors="replace")
    if constant.numel() == 1:
        return f"{constant.item():.6g}"
    return f"{constant.amin().item():.6g} to {constant.amax().item():.6g} of shape {list(constant.shape)}"


def finite(v_initial: Any) -> Tensor:
    """`v_initial` in float64; ValueError unless finite."""
    try:
        values = torch.as_tensor(v_initial, dtype=torch.float64)
    except (TypeError, RuntimeError, ValueError):  # a word, nothing, a ragged list
        values = torch.tensor(torch.nan)
    if not bool(values.isfinite().all()):
        raise ValueError(f"v_initial={v_initial!r}: must be a finite number (v(0) as a fraction of θ)")
    return values


def positive(threshold: Any) -> Threshold:
    """`threshold` as a float, or as [C] if it has one value a channel; ValueError unless positive and finite."""
    values = torch.as_tensor(threshold, dtype=torch.float64).detach()
    if values.dim() > 1 or not bool((values.isfinite() & (values > 0)).all()):
        raise ValueError(f"threshold={threshold!r}: must be a positive number, or one positive number for each channel")
    return values.cpu() if values.dim() else float(values)
