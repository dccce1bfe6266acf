"""Settings of a simulation: `Simulation` is chosen by the user, `Timing` follows from the conversion method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from snnconv.spiking.exit_rules import RULES

SCHEDULES, PRECISIONS, EXITS = ("auto", "step", "layer"), ("float32", "tf32", "bf16"), ("none", *RULES)
COMPILES = (
    "none",
    "default",
    "reduce-overhead",
    "max-autotune",
    "max-autotune-no-cudagraphs",
)  # modes of torch.compile


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """User settings of a `SpikingModel` (`conf/simulate`); ValueError for a value out of range.

    schedule  "step" runs the whole network one timestep at a time; "layer" runs up to `chunk` timesteps layer by layer; "auto"
              is "layer" on CUDA (fewer kernel launches) and "step" elsewhere (data stay in the cache).  Potentials are kept
              between chunks, so every schedule emits the same spikes, and memory does not grow with T (unless the method
              needs all T inputs of a layer together).
    precision "float32", or "bf16": weights and currents are rounded, membrane potentials stay float32.  ("tf32" is a setting of
              the device and means float32 here.)
    fold_threshold   neurons emit 1 instead of θ if the factor can be folded into the next weights (`folding.fold_amplitudes`).
    channels_last    memory layout of weights and images.
    event_driven     on a CPU, convolutions process only spikes (event_driven.py); requires float32 and channels_last, and no
              compilation.
    compile   "none", or a mode of `torch.compile` for the network after the first neurons ("default", "reduce-overhead" for CUDA
              graphs, …).  A smaller last batch is padded, so nothing is compiled twice; a batch that shrinks over time (early
              exit) is padded to a power of two.
    exit, exit_tolerance   early exit: see early_exit.py and exit_rules.py.
    """

    schedule: str = "auto"
    chunk: int = 8
    channels_last: bool = True
    compile: str = "none"
    precision: str = "float32"
    event_driven: bool = True
    fold_threshold: bool = True
    exit: str = "none"
    exit_tolerance: float = 0.002

    def __post_init__(self) -> None:
        for name, allowed in {
            "schedule": SCHEDULES, "precision": PRECISIONS, "exit": EXITS, "compile": COMPILES
        }.items():  # fmt: skip
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"simulate.{name}={value!r}: must be {', '.join(allowed[:-1])} or {allowed[-1]}")
        if type(self.chunk) is not int or self.chunk < 1:
            raise ValueError(f"simulate.chunk={self.chunk!r}: must be an integer of at least 1 (timesteps)")
        tolerance = self.exit_tolerance
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance <= 1:
            raise ValueError(f"simulate.exit_tolerance={tolerance!r}: must be a number from 0 to 1")
        for name in ("channels_last", "event_driven", "fold_threshold"):
            if type(value := getattr(self, name)) is not bool:
                raise ValueError(f"simulate.{name}={value!r}: must be true or false")

    @classmethod
    def of(cls, settings: "Simulation | Mapping[str, Any] | None") -> "Simulation":
        """`settings` as a Simulation: a mapping of some of its fields (`conf/simulate`), or None for the defaults."""
        if isinstance(settings, Simulation):
            return settings
        names = [field.name for field in fields(cls)]
        for name in settings or {}:
            if name not in names:
                raise ValueError(f"simulate.{name}: no such setting; there are {', '.join(names)}")
        return cls(**(settings or {}))

    @property
    def compiles(self) -> bool:
        """Whether the network is compiled by torch.compile."""
        return self.compile != "none"

    def layerwise(self, device_type: str) -> bool:
        """Whether layers run several timesteps together on a device of this type ("cpu", "cuda", …)."""
        return self.schedule == "layer" or (self.schedule == "auto" and device_type == "cuda")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Timesteps of a conversion method.

    anytime   True if the first t outputs of a run for T ≥ t equal the outputs of a run for t.
    lookahead number of inputs that a layer needs before its first output; None: all T, so layers are simulated one after another.
    discard   number of first steps that are simulated but not returned.
    presented number of first steps that receive the image, 1/presented of it in each; None: every step receives the whole image.
    """

    anytime: bool = True
    lookahead: int | None = 1
    discard: int = 0
    presented: int | None = None

    @property
    def changing_inputs(self) -> bool:
        """Whether inputs may change over time; False if steps are discarded, or if only the first steps receive the image."""
        return self.discard == 0 and self.presented is None

    def steps(self, timesteps: int) -> int:
        """Number of simulated steps for `timesteps` returned steps."""
        return max(self.discard + timesteps, self.lookahead or 1)

    def chunks(self, timesteps: int, chunk: int) -> list[int]:
        """Numbers of steps to simulate together; the first chunk contains all inputs that a layer needs together."""
        total = self.steps(timesteps)
        first = total if self.lookahead is None else max(min(chunk, total), self.lookahead)
        rest = total - first
        return [first, *[chunk] * (rest // chunk), *([rest % chunk] if rest % chunk else [])]

    def shares(self, first: int, steps: int) -> list[float] | None:
        """Share of the image in steps `first`, …, `first` + `steps` − 1; None if every step receives the whole image."""
        if self.presented is None:
            return None
        return [float(t < self.presented) / self.presented for t in range(first, first + steps)]


def wanted_timesteps(timesteps: int | Sequence[int]) -> list[int]:
    """[1, …, `timesteps`] for a number, or the listed T, sorted; ValueError unless all are integers of at least 1."""
    listed = [timesteps] if isinstance(timesteps, int) else list(timesteps)
    if not listed or any(isinstance(t, bool) or not isinstance(t, int) or t < 1 for t in listed):
        raise ValueError(f"timesteps={timesteps!r}: must be integers of at least 1")
    return list(range(1, timesteps + 1)) if isinstance(timesteps, int) else sorted(set(listed))
