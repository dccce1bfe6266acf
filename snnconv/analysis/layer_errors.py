"""The error of one layer of a converted network, in parts."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import functional as sj
from torch import Tensor, nn

from snnconv.analysis.ideal_networks import Even, limits, unit, value_of
from snnconv.nn.functional import ConversionErrors, conversion_errors
from snnconv.runtime import distributed
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.neurons.base import per_channel

PARTS = ConversionErrors._fields
OFFSETS = (-2, -1, 0, 1, 2)


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

    def __init__(self, path: str, neuron: nn.Module, model: SpikingModel, wanted: Sequence[int]) -> None:
        sj.reset_net(neuron)  # whose state need not be copied
        self.path, self.wanted, self.discard, self.most = path, wanted, model.timing.discard, model.latency.spike_levels
        self.twin = copy.deepcopy(neuron)
        self.even = {t: Even(neuron, model, t) for t in wanted}
        self.sums: dict[int, Tensor] = {}
        self.fired: dict[int, Tensor] = {}

    def start(self, z: Tensor, activation: Tensor) -> None:
        """A new batch: the ANN's current and activation."""
        sj.reset_net(self.twin)
        self.z, self.activation, self.done = z, activation, -self.discard
        self.current, self.output, self.meant = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(z)

    def __call__(self, neuron: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Some steps of the neuron (a forward hook)."""
        (current,) = inputs
        if current.shape[1:] != self.z.shape:
            raise ValueError(f"model: {self.path} receives {list(self.z.shape)}, but the neuron there in snn receives "
                             f"{list(current.shape[1:])}; pass the network from which snn was converted")  # fmt: skip
        sj.set_step_mode(self.twin, neuron.node.step_mode if hasattr(neuron, "node") else "m")
        meant = self.twin(self.z.expand(len(current), *self.z.shape))
        for step, (x, y, m) in enumerate(zip(current, output, meant, strict=True), 1):
            self.done += 1
            if self.done >= 1:
                self.current += x
                self.output += y
                self.meant += m
            if self.done in self.wanted:
                self.measure(neuron, last=step == len(current))

    def measure(self, neuron: Any, last: bool) -> None:
        """Add this batch at T = the steps so far."""
        t, a, scale = self.done, self.activation, unit(neuron, self.z, axis=1)
        low, high = limits(neuron, a, self.most, axis=1)
        value, theta = (per_channel(torch.as_tensor(x).to(a), a) for x in (value_of(neuron), neuron.threshold))
        output, meant = scale * self.output / t, scale * self.meant / t
        even = scale * self.even[t]((self.current / t).unsqueeze(0))[0]
        errors = conversion_errors(a, high, meant, even, output, low)
        total, spikes = a - output, (errors.unevenness * t / value).round().clamp(-2, 2)
        full = (output >= high * (1 - 1e-4)) | ((output < 0) & (output <= low * (1 - 1e-4)))
        v, threshold = _potential(neuron) if last and bool((low == 0).all()) else (None, None)
        owing = a.new_tensor(torch.nan) if v is None else _owing(v, threshold, output > 0, ~full).sum()
        parts = (*errors, total)
        figures = [
            a.new_tensor(a.numel()), a.square().sum(), owing, full.sum(),
            (output / theta).abs().sum(), *(p.sum() for p in parts), *((p * total).sum() for p in parts),
            *(p.square().sum() for p in parts), *((spikes == k).sum() for k in OFFSETS),
        ]  # fmt: skip
        self.sums[t] = self.sums.get(t, 0) + torch.stack([f.double() for f in figures])
        self.fired[t] = self.fired.get(t, False) | (output != 0).any(0)

    def errors(self, t: int) -> LayerErrors:
        """The errors over all batches so far and all processes."""
        fired = distributed.sum_over_ranks(self.fired[t].long()) > 0
        count, power, owing, saturated, rate, *rest = distributed.sum_over_ranks(self.sums[t]).tolist()
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


def _owing(v: Tensor, threshold: Any, some: Tensor, not_all: Tensor) -> Tensor:
    """Mask of potentials outside [0, θ), which do not occur for an even current: v < 0 after a spike, or v ≥ θ."""
    return ((v < 0) & some) | ((v >= threshold) & not_all)


def _potential(neuron: Any) -> tuple[Tensor | None, Any]:
    """The potential of a neuron's node, and the threshold in the node's own unit."""
    node = getattr(neuron, "node", None)
    v = getattr(node, "v", None)
    if not isinstance(v, Tensor):
        return None, None
    return v, node.threshold(v) if hasattr(node, "theta") else node.v_threshold  # type: ignore[union-attr]
