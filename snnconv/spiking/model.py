"""A converted network and the loop that runs it over time."""

import copy
import functools
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from snnconv.nn.graph.folding import fold_amplitudes
from snnconv.spiking.encoders.base import InputEncoder
from snnconv.spiking.encoders.direct import Direct
from snnconv.spiking.encoders.frames import Frames
from snnconv.spiking.event_driven import library
from snnconv.spiking.latency import Latency, latency_class
from snnconv.spiking.network import OverTime
from snnconv.spiking.operators.base import Operator, OperatorOverTime
from snnconv.spiking.simulation import Simulation, Timing, wanted_timesteps
from snnconv.spiking.tasks import CLASSIFY, Task
from snnconv.spiking.time_loop import TimeLoop


class SpikingModel(TimeLoop):
    """A converted network: `model(images, timesteps=T)` returns the logits of every step, [T, N, K].

    The prediction at t is the argmax of the running mean of the logits up to t (`read`).  Images are a constant input
    current, so layers before the first neuron are computed once.

    network    the network that is simulated; its neurons are inside `OverTime` modules.
    latency    the latency class of the method.
    timing     number of steps that the method simulates, discards and looks ahead.
    simulation the user's settings; `schedule`, `chunk`, `compile` and the settings of early exit may be replaced later.
    timesteps  T of `model(images)`; None if each call must pass it.
    for_timesteps    function T → network, if the network depends on T; `network` is then the first network.
    method     name of the conversion method.
    facts      properties of the conversion that are not settings; they are added to the settings in `result.json`.
    spent      seconds of earlier training that the model starts from; they count as conversion time.
    encoder    encoder of the inputs (`encoded`); by default every step receives the image itself.
    task       task that defines readout and score (`for_task`); by default classification.
    exact      with precision "bf16", the same model in float32; else None.

    `state_dict()` holds the weights and the constants of every neuron (θ, v(0), …); loading it into a model with other
    constants raises a RuntimeError that names them.
    """

    def __init__(
        self,
        network: nn.Module,
        latency: Latency | None = None,
        timing: Timing | None = None,
        *,
        simulation: Simulation | Mapping[str, Any] | None = None,
        timesteps: int | None = 32,
        for_timesteps: Callable[[int], nn.Module] | None = None,
        method: str | None = None,
        facts: Mapping[str, Any] | None = None,
        spent: float = 0.0,
    ) -> None:
        super().__init__(timing or Timing(), Simulation.of(simulation))
        self.latency = latency or Latency()
        if self.timing.discard > self.latency.warmup or (self.timing.lookahead != 1 and not self.latency.waits):
            raise ValueError(f"{self.latency}: does not declare the discarded steps or the lookahead of {self.timing}")
        self.timesteps, self.for_timesteps = timesteps, for_timesteps
        self.method, self.facts, self.spent = method, dict(facts or {}), spent
        self.task: Task = CLASSIFY
        self.encoder: InputEncoder = Direct()
        self._prepared = 0  # T of the present network, if it depends on T
        self._install(network)

    def _install(self, network: nn.Module) -> None:
        """Simulate `network` from now on."""
        network = network.eval()
        network = fold_amplitudes(network, OverTime) if self.simulation.fold_threshold else network
        self.exact: SpikingModel | None = None
        if self.simulation.precision == "bf16":
            self.exact = self.like(network, fold_threshold=False, compile="none", precision="float32")
            network = copy.deepcopy(network).to(torch.bfloat16)
        self.network = network
        self._parts = {}
        functional.invalidate_reset_cache(self.network)

    def like(self, network: nn.Module, **simulation: Any) -> "SpikingModel":
        """A model of `network`, for every T, with the other properties of this model; `simulation` replaces settings."""
        settings = replace(self.simulation, **simulation)
        options = {name: getattr(self, name) for name in ("timesteps", "method", "facts", "spent")}
        return SpikingModel(network, self.latency, self.timing, simulation=settings, **options).alike(self)

    def __repr__(self) -> str:
        neurons = Counter(type(neuron).__name__ for neuron in self.neurons().values())
        layers = " and ".join(f"{count} × {kind}" for kind, count in neurons.items())
        return (
            f"SpikingModel({self.network._get_name()}, method={self.method}, neurons: {layers}, timesteps={self.timesteps}, "
            f"class: {latency_class(self.latency.as_dict())})"
        )

    @torch.no_grad()
    def prepare(self, timesteps: int) -> None:
        """Install the network for T = `timesteps`, if the network depends on T."""
        serves = timesteps <= self._prepared if self.timing.anytime else timesteps == self._prepared
        if self.for_timesteps is not None and not serves:
            like = next((self.exact or self).network.parameters())
            self._install(self.for_timesteps(timesteps).to(like.device, like.dtype))
            self._prepared = timesteps

    @property
    def prepared_timesteps(self) -> int:
        """T of the present network if it depends on T; 0 if it was not prepared or does not depend on T."""
        return self._prepared

    def alike(self, other: "SpikingModel") -> "SpikingModel":
        """This model with the task and the encoder of `other`."""
        self.encoder = other.encoder
        return self.for_task(other.task)

    def encoded(self, encoder: InputEncoder, calibration: Iterable[tuple[Tensor, Any]] = ()) -> "SpikingModel":
        """Set the encoder of the inputs and return this model; `calibration` inputs set its range.

        ValueError if the method does not support inputs that change over time.  The encoder of a network that reads frames
        (`MeanOverTime`) is not changed.
        """
        if isinstance(self.encoder, Frames):
            if not isinstance(encoder, Direct | Frames):
                raise ValueError(f"encoder={encoder.name}: the inputs are already frames; use encoder=direct")
            return self
        if not isinstance(encoder, Direct):
            self._require_changing_inputs(f"encoder={encoder.name}")
        self.encoder = encoder.fitted(calibration)
        self.latency = replace(self.latency, encoding=encoder.name)
        if self.exact is not None:
            self.exact.encoder = self.encoder
        return self

    def _require_changing_inputs(self, what: str) -> None:
        """Raise a ValueError that names `what` if the method does not support inputs that change over time."""
        if not self.timing.changing_inputs:
            name = self.method or "this method"
            raise ValueError(f"{what}: {name} needs the same input in every step; choose a method without "
                             "pre-simulation, such as qcfs or mse")  # fmt: skip

    def for_task(self, task: Task) -> "SpikingModel":
        """Set the task, which defines readout and score, and return this model."""
        self.task, self.latency = task, replace(self.latency, readout=task.readout)
        if self.exact is not None:
            self.exact.for_task(task)
        return self

    def read(self, outputs: Float[Tensor, "T N *K"]) -> Float[Tensor, "T N *K"]:
        """The readout at each t, from the outputs of every step; by default their mean up to t."""
        return self.task.read(outputs, self.latency.readout_from)

    def changed(self, change: Callable[[nn.Module], nn.Module]) -> "SpikingModel":
        """Replace the network by `change(network)`, also for every T prepared later, and return this model."""
        if self.for_timesteps is not None:
            self.for_timesteps = functools.partial(_changed, self.for_timesteps, change)
        self._install(change((self.exact or self).network))
        return self

    def rounds(self, timesteps: int | Sequence[int]) -> list[list[int]]:
        """The runs needed for the outputs at every t = 1…`timesteps`, or at the listed t: one run, or one for each t.

        Each run is a list of t; it simulates the last t of the list.
        """
        listed = wanted_timesteps(timesteps)
        return [listed] if self.timing.anytime else [[t] for t in listed]

    def forward(
        self, images: Float[Tensor, "*inputs"], timesteps: int | None = None, *, over_time: bool = False
    ) -> Float[Tensor, "T N *K"]:
        """Logits of each step, from the initial state; `timesteps` is by default the model's own.

        With `over_time` images are [T, N, …], one batch for each step, and `timesteps` is by default the number of batches.

        ValueError for images without a batch axis, or if their channels do not match the first convolution.
        """
        if timesteps is None:
            timesteps = len(images) if over_time else self.own_timesteps()
        return torch.cat(list(self.run(images, timesteps, over_time=over_time)))

    def own_timesteps(self) -> int:
        """`timesteps` of the model; ValueError if it is None."""
        if self.timesteps is None:
            raise ValueError("timesteps: this model has no default T; call model(images, timesteps=8)")
        return self.timesteps

    def run(
        self, images: Float[Tensor, "*inputs"], timesteps: int, *, over_time: bool = False
    ) -> Generator[Float[Tensor, "t N *K"], Tensor | None, None]:
        """Yield the logits of `forward` in consecutive chunks of t timesteps, as they are simulated.

        `run(…).send(indices)` continues with only these samples of the batch; the others are no longer simulated.
        """
        if not isinstance(timesteps, Integral) or timesteps < 1:
            raise ValueError(f"timesteps={timesteps!r}: must be an integer of at least 1")
        self.prepare(timesteps)
        if not over_time:
            return self.simulate(images, self.encoder, timesteps)
        if len(images) < timesteps:
            raise ValueError(f"inputs over time {list(images.shape)}: {len(images)} steps, timesteps={timesteps}")
        self._require_changing_inputs("over_time")
        encoder = self.encoder if isinstance(self.encoder, Frames) else Frames()
        return self.simulate(images.movedim(0, 1), encoder, timesteps)

    def steps(self, timesteps: int) -> int:
        """Number of simulated steps for `timesteps` returned steps."""
        return self.timing.steps(timesteps)

    def neurons(self) -> dict[str, nn.Module]:
        """The spiking neurons by path, in order of definition."""
        return {path: module.neuron for path, module in self.network.named_modules() if isinstance(module, OverTime)}

    def operators(self) -> dict[str, Operator]:
        """The operators by path: non-linear layers that are not neurons."""
        clocks = {path: m for path, m in self.network.named_modules() if isinstance(m, OperatorOverTime)}
        return {path: clock.operator for path, clock in clocks.items()}

    def implementation(self) -> str:
        """Kernel of an integrate-and-fire layer: the kernel that SpikingJelly selects, or our fused single step."""
        device = next(self.network.parameters()).device
        if not self.simulation.layerwise(device.type):
            return "fused-step"
        return str(functional.neuron_implementation("if", device)["implementation"])

    def convolutions(self) -> str:
        """Algorithm of convolutions of spikes: "event-driven" (used where possible, if many neurons are silent) or "dense"."""
        cpu, settings = next(self.network.parameters()).device.type == "cpu", self.simulation
        plain = settings.channels_last and settings.precision != "bf16" and not settings.compiles
        return "event-driven" if settings.event_driven and plain and cpu and library() is not None else "dense"


def _changed(make: Callable[[int], nn.Module], change: Callable[[nn.Module], nn.Module], timesteps: int) -> nn.Module:
    """The network for T = `timesteps`, changed."""
    return change(make(timesteps))
