"""A converted network and the clock that drives it."""

import copy
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from spikingjelly.activation_based import base, functional
from torch import Tensor, nn

from snnconv.nn.graph.folding import fold_amplitudes
from snnconv.nn.graph.split import split
from snnconv.spiking.event_driven import library, refresh, walk_spikes
from snnconv.spiking.latency import Latency
from snnconv.spiking.network import OverTime
from snnconv.spiking.operators.base import Operator, OperatorOverTime

SMALLEST_BATCH = 16  # to which compiled code shrinks a batch that samples leave
TOGETHER = 4096  # images × timesteps that are simulated at once where layers wait for all of them
IN_CACHE = 256  # the same on a CPU, whose cache holds a layer of about so many


class SpikingModel(nn.Module):
    """A converted network: `model(images, timesteps=T)` gives the logits of every step, [T, N, K].

    The prediction at t is the argmax of the running mean up to t (`running_mean`).  Images are fed as a constant current, so
    what lies before the first neuron is computed once.

    What the method says:

    anytime   True if a prefix of a long run equals a short run.
    lookahead inputs that a layer needs before its first output, None: all of them; they are then simulated layer by layer.
    discard   first steps that are simulated and not returned.
    presented first steps in which the image is shown, a part of 1/presented in each; None: all of it in every step.
    for_timesteps    T → network, where the network itself depends on T; `network` is then the one to start with.
    facts     what a configuration does not tell of how the model was made; they join the settings in `result.json`.
    spent     seconds of earlier runs in which what the model starts from was trained; they count as conversion.

    What the user says (`conf/simulate/`):

    schedule  "step" runs the whole network one timestep at a time, "layer" up to `chunk` timesteps layer by layer, and
              "auto" takes "layer" on CUDA (fewer kernels) and "step" elsewhere (data stay in cache).  Potentials carry over
              between chunks, so every schedule emits the same spikes and memory does not grow with T (but where layers wait).
    precision "float32", or "bf16": weights and currents are rounded, membranes stay float32; `exact` is then the float32 model.
              ("tf32" is a setting of the device; here it means float32.)
    fold_threshold   let neurons emit 1 instead of θ where the next weights can carry the factor (`folding.fold_amplitudes`).
    event_driven     on a CPU, let convolutions work where there are spikes only (event_driven.py): in float32, channels_last, not
              compiled.
    exit, exit_tolerance   early stop over time, see early_exit.py.
    compile   "none", or a mode of `torch.compile` for the network after the first neuron ("default", "reduce-overhead" for
              CUDA graphs, …).  A smaller last batch is padded, so nothing is compiled twice; what samples
              leave over time (early stop) is padded to a power of two.
    """

    def __init__(
        self,
        network: nn.Module,
        latency: Latency,
        *,
        anytime: bool = True,
        lookahead: int | None = 1,
        discard: int = 0,
        presented: int | None = None,
        for_timesteps: Callable[[int], nn.Module] | None = None,
        facts: Mapping[str, Any] | None = None,
        spent: float = 0.0,
        schedule: str = "auto",
        chunk: int = 8,
        channels_last: bool = False,
        compile: str = "none",
        precision: str = "float32",
        fold_threshold: bool = False,
        event_driven: bool = True,
        exit: str = "none",
        exit_tolerance: float = 0.002,
    ) -> None:
        super().__init__()
        if exit not in ("none", "confidence"):
            raise ValueError(f"simulate.exit={exit!r}: none or confidence")
        if schedule not in ("auto", "step", "layer"):
            raise ValueError(f"simulate.schedule={schedule!r}: auto, step or layer")
        if precision not in ("float32", "tf32", "bf16"):
            raise ValueError(f"simulate.precision={precision!r}: float32, tf32 or bf16")
        if chunk < 1:
            raise ValueError(f"simulate.chunk={chunk}: at least 1 timestep")
        if type(event_driven) is not bool:
            raise ValueError(f"simulate.event_driven={event_driven!r}: true or false")
        if discard > latency.warmup or (lookahead != 1 and not latency.waits):
            raise ValueError(
                f"{latency}: hides that {discard} steps are discarded and layers look {lookahead} steps ahead"
            )
        self.latency, self.anytime, self.lookahead, self.discard = latency, anytime, lookahead, discard
        self.presented, self.facts, self.spent = presented, dict(facts or {}), spent
        self.schedule, self.chunk, self.channels_last, self.compile_mode = schedule, chunk, channels_last, compile
        self.precision, self.fold_threshold, self.event_driven = precision, fold_threshold, event_driven
        self.exit, self.exit_tolerance = exit, exit_tolerance
        self.for_timesteps = for_timesteps
        self._watched = False  # by `watched`, which compiled code would pass by
        self._batch = 0  # images in the largest batch so far, to which smaller ones are padded when compiled
        self._install(network)

    def _install(self, network: nn.Module) -> None:
        """Make `network` the one that is simulated."""
        network = fold_amplitudes(network.eval(), OverTime) if self.fold_threshold else network.eval()
        self.exact: SpikingModel | None = None
        if self.precision == "bf16":
            plain = {"fold_threshold": False, "compile": "none", "precision": "float32", "for_timesteps": None}
            self.exact = SpikingModel(network, **{**self._settings(), **plain})
            network = copy.deepcopy(network).to(torch.bfloat16)
        self.network = network
        self._parts: tuple[Callable, Callable, Callable] | None = None
        functional.invalidate_reset_cache(self.network)

    def _settings(self) -> dict[str, Any]:
        names = set(inspect.signature(SpikingModel).parameters) - {"network", "compile"}
        return {**{name: getattr(self, name) for name in names}, "compile": self.compile_mode}

    def __getstate__(self) -> dict[str, Any]:
        """Copies are made without what can be built again."""
        return {**self.__dict__, "_parts": None}

    def prepare(self, timesteps: int) -> None:
        """Install the network for T = `timesteps`, where the network depends on T."""
        serves = timesteps <= self._prepared if self.anytime else timesteps == self._prepared
        if self.for_timesteps is not None and not serves:
            like = next((self.exact or self).network.parameters())
            self._install(self.for_timesteps(timesteps).to(like.device, like.dtype))
            self._prepared = timesteps

    _prepared = 0

    def changed(self, change: Callable[[nn.Module], nn.Module]) -> "SpikingModel":
        """This model with `change(network)` in the place of its network, and of those it will make for a T."""
        made = self.for_timesteps
        if made is not None:
            self.for_timesteps = lambda timesteps: change(made(timesteps))
        self._install(change((self.exact or self).network))
        return self

    def forward(self, images: Float[Tensor, "N C H W"], timesteps: int) -> Float[Tensor, "T N K"]:
        """Per-step logits, from the initial state."""
        return torch.cat(list(self.run(images, timesteps)))

    @torch.no_grad()
    def run(
        self, images: Float[Tensor, "N C H W"], timesteps: int
    ) -> Generator[Float[Tensor, "t N K"], Tensor | None, None]:
        """The same in consecutive chunks of t timesteps, as they are simulated.

        `run(…).send(indices)` goes on with those samples of the batch only; the others cost nothing any more.
        """
        if timesteps < 1:
            raise ValueError(f"timesteps={timesteps}: at least 1")
        self.prepare(timesteps)
        most = self.at_once(timesteps, images.device)
        if self.lookahead is None and len(images) > most:
            yield torch.cat([self(part, timesteps) for part in images.split(most)], dim=1)
            return
        before, after = self._split()
        refresh(after)
        clock = [module for module in self.network.modules() if isinstance(module, OverTime | OperatorOverTime)]
        layerwise = self.schedule == "layer" or (self.schedule == "auto" and images.is_cuda)
        functional.reset_net(self.network)
        functional.set_step_mode(self.network, "m" if layerwise or self.lookahead != 1 else "s")
        constants = before(self._ready(images, most if self.lookahead is None else None))
        count, done = len(images), -self.discard
        for steps in self._chunks(timesteps, self.chunk if layerwise else 1):
            for module in clock:
                module.timesteps = steps
            logits = after(*self._shown(constants, done + self.discard, steps))
            first, done = max(-done, 0), done + steps
            counted = logits.unflatten(0, (steps, -1))[first : steps - max(done - timesteps, 0), :count]
            keep = (yield counted.to(images.dtype)) if len(counted) else None
            if keep is not None:
                count, keep = len(keep), self._filled_up(keep, len(constants[0]))
                constants = [constant[keep] for constant in constants]
                for module in clock:
                    keep_samples(module, keep)

    def _shown(self, constants: Sequence[Tensor], first: int, steps: int) -> list[Tensor]:
        """What the network after the first neurons gets in `steps` steps from number `first` (0, 1, …) on."""
        repeated = [c if steps == 1 else torch.cat([c] * steps) for c in constants]  # keeps channels_last
        if self.presented is None:
            return repeated
        parts = [float(t < self.presented) / self.presented for t in range(first, first + steps)]
        each = torch.tensor(parts, dtype=torch.float64).repeat_interleave(len(repeated[0]) // steps)
        return [c * each.to(c).view(-1, *[1] * (c.dim() - 1)) for c in repeated]

    def steps(self, timesteps: int) -> int:
        """How many steps are simulated to return `timesteps` of them."""
        return max(self.discard + timesteps, self.lookahead or 1)

    def at_once(self, timesteps: int, device: torch.device) -> int:
        """How many images to simulate at once, so that all their steps fit; a call with more of them takes turns if layers wait."""
        cached = self.lookahead is None and device.type == "cpu"
        return max((IN_CACHE if cached else TOGETHER) // self.steps(timesteps), 1)

    def _chunks(self, timesteps: int, chunk: int) -> list[int]:
        """Numbers of steps to simulate together; the first chunk holds all that a layer has to see at once."""
        total = self.steps(timesteps)
        first = total if self.lookahead is None else max(min(chunk, total), self.lookahead)
        rest = total - first
        return [first, *[chunk] * (rest // chunk), *([rest % chunk] if rest % chunk else [])]

    def _split(self) -> tuple[Callable, Callable]:
        """The network before the first neurons, and the rest, which is compiled if so asked and nobody is watching."""
        if self._parts is None:
            if self.channels_last:
                self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            before, after = split(self.network, OverTime)
            if self.event_driven and self.compile_mode == "none":
                after = walk_spikes(after)
            fast = after if self.compile_mode == "none" else torch.compile(after, mode=self.compile_mode)
            self._parts = before, after, fast
        first, plain, compiled = self._parts
        return first, plain if self._watched else compiled

    def _ready(self, images: Tensor, most: int | None = None) -> Tensor:
        """Images in the dtype and layout of the weights, padded to the largest batch so far if compiled code will run.

        `most` images at most.
        """
        self._batch = max(self._batch, len(images))
        wanted = min(self._batch, most or self._batch)
        if self.compile_mode != "none" and not self._watched and len(images) < wanted:
            images = torch.cat([images, images[-1:].expand(wanted - len(images), *images.shape[1:])])
        images = images.to(next(self.network.parameters()).dtype)
        return (
            images.contiguous(memory_format=torch.channels_last) if self.channels_last and images.dim() == 4 else images
        )

    def _filled_up(self, indices: Tensor, size: int) -> Tensor:
        """`indices` of samples that stay of `size`, the last one repeated so that compiled code meets few sizes: 16, 32, 64, …"""
        if self.compile_mode == "none" or self._watched:
            return indices
        wanted = min(size, max(SMALLEST_BATCH, 1 << (len(indices) - 1).bit_length()))
        return torch.cat([indices, indices[-1:].expand(wanted - len(indices))])

    def neurons(self) -> dict[str, nn.Module]:
        """The spiking neurons by path, in order of definition."""
        return {path: module.neuron for path, module in self.network.named_modules() if isinstance(module, OverTime)}

    def operators(self) -> dict[str, Operator]:
        """The operators by path: non-linear layers that are no neurons."""
        clocks = {path: m for path, m in self.network.named_modules() if isinstance(m, OperatorOverTime)}
        return {path: clock.operator for path, clock in clocks.items()}

    def implementation(self) -> str:
        """What computes an integrate-and-fire layer: the kernel SpikingJelly picks here, or our single step."""
        device = next(self.network.parameters()).device
        stepwise = self.schedule == "step" or (self.schedule == "auto" and device.type != "cuda")
        return "fused-step" if stepwise else str(functional.neuron_implementation("if", device)["implementation"])

    def convolutions(self) -> str:
        """How those of spikes are computed: "event-driven" where they can be and many neurons are silent, or "dense"."""
        cpu = next(self.network.parameters()).device.type == "cpu"
        asked = self.event_driven and self.channels_last and self.precision != "bf16" and self.compile_mode == "none"
        return "event-driven" if asked and cpu and library() is not None else "dense"


def keep_samples(neuron: nn.Module, indices: Tensor) -> None:
    """Reduce the state of `neuron` to some samples of the batch."""
    for module in neuron.modules():
        if isinstance(module, base.MemoryModule):
            for name, value in module._memories.items():
                if isinstance(value, Tensor) and value.dim():
                    module._memories[name] = value[indices]


def running_mean(logits: Float[Tensor, "T N K"], readout_from: int = 1) -> Float[Tensor, "T N K"]:
    """Mean logits up to each step, leaving out what comes before step `readout_from` (until then, the step alone)."""
    early, counted = logits[: readout_from - 1].double(), logits[readout_from - 1 :].double().cumsum(0)
    steps = torch.arange(1, len(counted) + 1, device=logits.device).view(-1, 1, 1)
    return torch.cat([early, counted / steps])
