"""The error of one layer of a converted network, in parts."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import functional as sj
from torch import Tensor

from snnconv.analysis.error_sums import OFFSETS, PARTS, along_channels, constant_current_sums, error_sums, in_parts
from snnconv.analysis.ideal_networks import Even, has_closed_form, outermost, unit, value_of
from snnconv.runtime import distributed
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.neurons.base import Threshold


@dataclass(frozen=True)
class LayerErrors:
    """ANN − SNN of one layer after T steps, over images and neurons; `functional.conversion_errors` defines the parts."""

    path: str
    timesteps: int
    mean: dict[str, float]  # of each part, in the unit of the activation; they add up to "total"
    share: dict[
        str, float
    ]  # mean of part · total, relative to the mean a²; they add up to "total", the relative squared error
    size: dict[str, float]  # mean square of each part by itself, relative to the mean a²
    offset_spikes: dict[int, float]  # share of outputs with so many spikes too few (> 0) or too many; ±2 and beyond
    residual: (
        float | None
    )  # share of outputs with v(T) < 0 though some spike, or v(T) ≥ θ though not all, was emitted; not of signed
    saturated: float  # share of outputs at the largest possible value
    silent: float  # share of neurons that fire for no image
    firing_rate: float  # mean absolute output in units of θ


class Watch:
    """Observes a neuron during a run, together with a copy that receives the ANN's current in every step; sums up its errors."""

    def __init__(self, path: str, neuron: Any, model: SpikingModel, wanted: Sequence[int]) -> None:
        sj.reset_net(neuron)  # whose state need not be copied
        self.path, self.wanted, self.discard, self.most = path, wanted, model.timing.discard, model.latency.spike_levels
        self.sums: dict[int, Tensor] = {}
        self.fired: dict[int, Tensor] = {}
        self._prepare(neuron, model)

    def _prepare(self, neuron: Any, model: SpikingModel) -> None:
        self.twin = copy.deepcopy(neuron)
        self.even = {t: Even(neuron, model, t) for t in self.wanted}

    def start(self, z: Tensor, activation: Tensor) -> None:
        """A new batch: the ANN's current and activation."""
        self.z, self.activation, self.done = z, activation, -self.discard

    def __call__(self, neuron: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Some steps of the neuron (a forward hook)."""
        (current,) = inputs
        if current.shape[1:] != self.z.shape:
            raise ValueError(f"model: {self.path} receives {list(self.z.shape)}, but the neuron there in snn receives "
                             f"{list(current.shape[1:])}; pass the network from which snn was converted")  # fmt: skip
        if self.done == -self.discard:
            self.z, self.activation = (_laid_out(x, like=current[0]) for x in (self.z, self.activation))
            self.output = torch.zeros_like(self.z)
            self._begin()
        for step, each in enumerate(zip(*self._steps(neuron, current, output), strict=True), 1):
            self.done += 1
            if self.done >= 1:
                self._add(*each)
            if self.done in self.wanted:
                self._measure(neuron, last=step == len(current))

    def _begin(self) -> None:
        sj.reset_net(self.twin)
        self.current, self.meant = torch.zeros_like(self.z), torch.zeros_like(self.z)

    def _steps(self, neuron: Any, current: Tensor, output: Tensor) -> tuple[Tensor, ...]:
        """Per step: output, and what else `_add` needs."""
        sj.set_step_mode(self.twin, neuron.node.step_mode if hasattr(neuron, "node") else "m")
        return output, current, self.twin(self.z.expand(len(current), *self.z.shape))

    def _add(self, output: Tensor, current: Tensor, meant: Tensor) -> None:
        self.output += output
        self.current += current
        self.meant += meant

    def _measure(self, neuron: Any, last: bool) -> None:
        """Add this batch at T = the steps so far."""
        t, a, scale = self.done, self.activation, unit(neuron, self.z, axis=1)
        low, high = self._limits(neuron)
        value, theta = (along_channels(x, a) for x in (value_of(neuron), neuron.threshold))
        output, meant = scale * self.output / t, scale * self.meant / t
        even = scale * self.even[t]((self.current / t).unsqueeze(0))[0]
        missing = ((even - output) * t / value).round()
        sums = torch.stack([error_sums(*part, low=low, high=high, theta=theta, missing=off)
                            for *part, off in in_parts(a, output, meant, even, missing)]).sum(0)  # fmt: skip
        unsigned = not bool((torch.as_tensor(low) != 0).any())
        self._store(t, sums, _residual(neuron, output, high) if last and unsigned else a.new_tensor(torch.nan))

    def _limits(self, neuron: Any) -> tuple[Threshold, Threshold]:
        low, high = outermost(neuron, self.most)
        return along_channels(low, self.z), along_channels(high, self.z)

    def _store(self, t: int, sums: Tensor, residual: Tensor) -> None:
        """Add the sums of a batch, and which neurons emitted a spike."""
        figures = torch.cat([sums.new_tensor([self.z.numel()]), residual.double().view(1), sums])
        self.sums[t] = self.sums.get(t, 0) + figures
        self.fired[t] = self.fired.get(t, False) | (self.output.abs().sum(0) > 0)

    def is_clipped(self, neuron: Any) -> bool:
        """Whether the ANN's activations lie within the limits of the neuron, for the present batch."""
        low, high = self._limits(neuron)
        return bool(((self.activation >= low) & (self.activation <= high)).all())

    def errors(self, t: int) -> LayerErrors:
        """The errors over all batches so far and all processes."""
        fired = distributed.sum_over_ranks(self.fired[t].long()) > 0
        count, owing, power, saturated, rate, *rest = distributed.sum_over_ranks(self.sums[t]).tolist()
        names, n = (*PARTS, "total"), len(PARTS) + 1
        relative = [value / power if power else 0.0 for value in rest[n : 3 * n]]
        return LayerErrors(
            path=self.path,
            timesteps=t,
            mean=dict(zip(names, (value / count for value in rest[:n]), strict=True)),
            share=dict(zip(names, relative[:n], strict=True)),
            size=dict(zip(names, relative[n:], strict=True)),
            offset_spikes=dict(zip(OFFSETS, (value / count for value in rest[3 * n :]), strict=True)),
            residual=None if owing != owing else owing / count,
            saturated=saturated / count,
            silent=1 - float(fired.double().mean()),
            firing_rate=rate / count,
        )


class ConstantCurrentWatch(Watch):
    """`Watch` for a plain integrate-and-fire neuron, without copies: its output for constant currents has a closed form."""

    def _prepare(self, neuron: Any, model: SpikingModel) -> None:
        pass

    def _begin(self) -> None:
        pass

    def _steps(self, neuron: Any, current: Tensor, output: Tensor) -> tuple[Tensor, ...]:
        return (output,)

    def _add(self, output: Tensor) -> None:  # type: ignore[override]
        self.output += output

    def _measure(self, neuron: Any, last: bool) -> None:
        assert last  # one step at a time, so the potential is the one after it
        theta, amplitude = (along_channels(x, self.z) for x in (neuron.threshold, neuron.amplitude))
        pairs = [
            constant_current_sums(*part, theta=theta, high=self._limits(neuron)[1], timesteps=self.done, v_initial=neuron.v_initial)
            for part in in_parts(self.z, self.activation, self.output / amplitude, neuron.node.v)
        ]  # fmt: skip
        sums, residual = (torch.stack(values).sum(0) for values in zip(*pairs, strict=True))
        self._store(self.done, sums, residual)


def watch(path: str, neuron: Any, model: SpikingModel, wanted: Sequence[int]) -> Watch:
    """The observer of `neuron` at T of `wanted`."""
    kind = ConstantCurrentWatch if has_closed_form(neuron, model) else Watch
    return kind(path, neuron, model, wanted)


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """`x` in the memory layout of `like`, which makes operations on both fast."""
    return x if x.stride() == like.stride() else torch.empty_like(like, dtype=x.dtype).copy_(x)


def _residual(neuron: Any, output: Tensor, high: Threshold) -> Tensor:
    """Number of potentials outside [0, θ), which do not occur for an even current: v < 0 after a spike, or v ≥ θ."""
    v, threshold = _potential(neuron)
    if v is None:
        return output.new_tensor(torch.nan)
    full = output >= high * (1 - 1e-4)
    return (((v < 0) & (output > 0)) | ((v >= threshold) & ~full)).sum()


def _potential(neuron: Any) -> tuple[Tensor | None, Any]:
    """The potential of a neuron's node, and the threshold in the node's own unit."""
    node = getattr(neuron, "node", None)
    v = getattr(node, "v", None)
    if not isinstance(v, Tensor):
        return None, None
    return v, node.threshold(v) if hasattr(node, "theta") else node.v_threshold  # type: ignore[union-attr]
