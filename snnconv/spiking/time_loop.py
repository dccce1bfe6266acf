"""The loop that runs a network with neurons over time, in chunks of timesteps."""

from collections.abc import Callable, Generator, Iterable

import torch
from jaxtyping import Float
from spikingjelly.activation_based import base, functional
from torch import Tensor, nn

from snnconv.nn.graph.split import split
from snnconv.nn.kernels import to_channels_last
from snnconv.runtime.compilation import compiled
from snnconv.runtime.error_notes import noting_inputs
from snnconv.spiking.encoders.base import InputEncoder
from snnconv.spiking.encoders.direct import Direct
from snnconv.spiking.event_driven import refresh, walk_spikes
from snnconv.spiking.network import OverTime
from snnconv.spiking.operators.base import OperatorOverTime, set_timesteps
from snnconv.spiking.simulation import Simulation, Timing

SMALLEST_BATCH = 16  # size down to which a shrinking batch is padded for compiled code
TOGETHER = 4096  # images × timesteps simulated together if layers wait for all inputs
IN_CACHE = 256  # the same on a CPU: about the size of a layer that fits into the cache


class TimeLoop(nn.Module):
    """Runs `network`, whose neurons are in `OverTime` modules, with the order of computation from `timing` and `simulation`.

    Layers before the first neuron are computed once if the input is the same in all steps.
    """

    network: nn.Module

    def __init__(self, timing: Timing, simulation: Simulation) -> None:
        super().__init__()
        self.timing, self.simulation = timing, simulation
        self._parts: dict[str, tuple[Callable, Callable]] = {}  # of the network, by mode of compilation
        self._batch = 0  # size of the largest batch so far; smaller batches are padded to it if compiled

    def __getstate__(self) -> dict:
        """Attributes without those that can be rebuilt, for copies and files."""
        return {**self.__dict__, "_parts": {}}

    @torch.no_grad()
    def simulate(
        self, images: Float[Tensor, "N *inputs"], encoder: InputEncoder, timesteps: int
    ) -> Generator[Float[Tensor, "t N *K"], Tensor | None, None]:
        """Logits of each step from the initial state, in consecutive chunks of t timesteps; `encoder` makes the inputs.

        `.send(indices)` continues with those samples of the batch only; the others are not simulated any more.
        """
        changing = not isinstance(encoder, Direct)
        most, waits = self.at_once(timesteps, images.device), self.timing.lookahead is None
        if waits and len(images) > most:
            parts = [torch.cat([*self.simulate(part, encoder, timesteps)]) for part in images.split(most)]
            yield torch.cat(parts, dim=1)
            return
        before, after = self._split()
        _require_batch(encoder.encode(images, 0, 1)[0] if changing else images, before)
        refresh(after)
        clocks = [module for module in self.network.modules() if isinstance(module, OverTime | OperatorOverTime)]
        layerwise = self.simulation.layerwise(images.device.type)
        functional.reset_net(self.network)
        functional.set_step_mode(self.network, "m" if layerwise or self.timing.lookahead != 1 else "s")
        ready = self._ready(images, most if waits else None)
        with noting_inputs(self.network, images):
            constants, size = [ready] if changing else before(ready), len(ready)
        count, done = len(images), -self.timing.discard
        for steps in self.timing.chunks(timesteps, self.simulation.chunk if layerwise else 1):
            for clock in clocks:
                clock.timesteps = steps
            shares = self.timing.shares(done + self.timing.discard, steps)
            if changing:
                inputs = encoder.encode(constants[0], done, steps).flatten(0, 1)
                currents: Iterable[Tensor] = before(self._laid_out(inputs))
            else:
                currents = (_over_time(constant, steps, shares) for constant in constants)
            with noting_inputs(self.network, images):
                logits = after(*currents)
            first, done = max(-done, 0), done + steps
            counted = logits.unflatten(0, (steps, -1))[first : steps - max(done - timesteps, 0), :count]
            keep = (yield counted.to(images.dtype)) if len(counted) else None
            if keep is not None:
                count, keep = len(keep), self._padded(keep, size)
                constants = [chosen_rows(constant, keep, size) for constant in constants]
                for clock in clocks:
                    keep_samples(clock, keep, size)
                size = len(keep)

    @torch.no_grad()
    def means(self, images: Float[Tensor, "N *inputs"]) -> Float[Tensor, "N *K"]:
        """Outputs of one pass without time, in which operators, and neurons if these allow it, are functions of means."""
        before, after = self._split()
        refresh(after)
        set_timesteps(self.network, None)
        for module in self.network.modules():
            if isinstance(module, OverTime):
                module.timesteps = 1
        return after(*before(self._laid_out(images.to(next(self.network.parameters()).dtype))))

    def at_once(self, timesteps: int, device: torch.device) -> int:
        """Number of images whose steps can be simulated together; a larger batch is split if layers wait for all inputs."""
        cached = self.timing.lookahead is None and device.type == "cpu"
        return max((IN_CACHE if cached else TOGETHER) // self.timing.steps(timesteps), 1)

    def _split(self) -> tuple[Callable, Callable]:
        """The part before the first neurons, and the rest, which is compiled or event-driven according to `simulation`."""
        mode = self.simulation.compile
        if mode not in self._parts:
            if self.simulation.channels_last:
                to_channels_last(self.network)
            before, after = split(self.network, OverTime)
            if self.simulation.compiles:
                self._parts[mode] = before, compiled(after, mode=mode)
            else:
                self._parts[mode] = before, walk_spikes(after) if self.simulation.event_driven else after
        return self._parts[mode]

    def _ready(self, images: Tensor, most: int | None = None) -> Tensor:
        """Images in the dtype and layout of the weights; for compiled code padded to the largest batch so far (at most `most`)."""
        self._batch = max(self._batch, len(images))
        size = min(self._batch, most or self._batch)
        if self.simulation.compiles and len(images) < size:
            images = torch.cat([images, images[-1:].expand(size - len(images), *images.shape[1:])])
        return self._laid_out(images.to(next(self.network.parameters()).dtype))

    def _laid_out(self, images: Tensor) -> Tensor:
        """Images in the memory layout of the weights."""
        last = self.simulation.channels_last and images.dim() == 4
        return images.contiguous(memory_format=torch.channels_last) if last else images

    def _padded(self, indices: Tensor, size: int) -> Tensor:
        """`indices` of the remaining samples of `size`; for compiled code the last is repeated up to 16, 32, 64, … samples."""
        if not self.simulation.compiles:
            return indices
        padded_size = min(size, max(SMALLEST_BATCH, 1 << (len(indices) - 1).bit_length()))
        return torch.cat([indices, indices[-1:].expand(padded_size - len(indices))])


def _require_batch(images: Tensor, before: Callable) -> None:
    """Raise a ValueError unless `images` are finite, have a batch axis, and match the first convolution."""
    if images.dtype == torch.uint8:
        raise ValueError("images of uint8: convert them to float and normalize them as in training")
    if not images.isfinite().all():  # a neuron whose potential is NaN is silent, so the result would look valid
        raise ValueError("images contain values that are NaN or infinite")
    if images.dim() < 2:
        raise ValueError(f"images of shape {list(images.shape)}: expected a batch [N, …]")
    (entry,) = [node for node in before.graph.nodes if node.op == "placeholder"]  # type: ignore[attr-defined]
    for user in entry.users:
        layer = before.get_submodule(str(user.target)) if user.op == "call_module" else None  # type: ignore[attr-defined]
        if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        axes = [layer.in_channels, "D", "H", "W"][:1] + ["D", "H", "W"][-len(layer.kernel_size) :]
        if images.dim() != len(axes) + 1 or images.shape[1] != layer.in_channels:
            hint = "; for a single image use images.unsqueeze(0)" if images.dim() == len(axes) else ""
            raise ValueError(
                f"images of shape {list(images.shape)}: {user.target} expects [N, {', '.join(map(str, axes))}]{hint}"
            )


def _over_time(constant: Tensor, steps: int, shares: list[float] | None) -> Tensor:
    """A constant input [N, …], repeated for `steps` steps, [steps·N, …], and multiplied by the share of each step."""
    if shares is None:
        return constant if steps == 1 else torch.cat([constant] * steps)  # keeps channels_last
    return torch.cat([constant * constant.new_full((), share) for share in shares])  # filled on its device


def keep_samples(neuron: nn.Module, indices: Tensor, size: int | None = None) -> None:
    """Reduce the state of `neuron` to the samples with these `indices`; `size` is the present size of the batch."""
    for module in neuron.modules():
        if isinstance(module, base.MemoryModule):
            for name, value in module._memories.items():
                if isinstance(value, Tensor) and value.dim():
                    module._memories[name] = chosen_rows(value, indices, size or len(value))


def chosen_rows(value: Tensor, indices: Tensor, size: int) -> Tensor:
    """The rows of `value` that belong to these samples; a sample may have several consecutive rows (windows of an image)."""
    if len(value) == size:
        return value[indices]
    return value.unflatten(0, (size, -1))[indices].flatten(0, 1)
