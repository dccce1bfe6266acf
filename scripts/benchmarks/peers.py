"""Other tools beside snnconv: each converts the same trained ReLU network and simulates the same images for T timesteps.

Every tool is called as its documentation shows.  `Peer.convert` returns a function of a batch whose result is the mean output over
T timesteps.  A tool that is not installed, or that cannot convert the network, gets a row with the reason.
"""

import contextlib
import copy
import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

Batches = Sequence[tuple[Tensor, Tensor]]
Simulate = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """A tool, its package, and its conversion of (network, calibration batches, T)."""

    name: str
    package: str
    convert: Callable[[nn.Module, Batches, int], Simulate]
    trains: bool = False  # conversion includes training

    @property
    def version(self) -> str | None:
        """The installed version; None if there is none."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None


def ours(network: nn.Module, batches: Batches, timesteps: int, **simulation: Any) -> Simulate:
    """`snnconv.convert` with its defaults."""
    import snnconv

    snn = snnconv.convert(network, batches, simulation=simulation or None)
    return lambda images: snn(images, timesteps).mean(0)


def spikingjelly(
    network: nn.Module, batches: Batches, timesteps: int, recipe: str = "rate", step_mode: str = "s"
) -> Simulate:
    """ann2snn: robust normalization (99.9 %), or local threshold balancing, whose thresholds grow over 100 batches."""
    from spikingjelly.activation_based import ann2snn, functional

    made = (
        ann2snn.RateCodingRecipe(batches, mode="99.9%")
        if recipe == "rate"
        else ann2snn.LocalThresholdBalancingRecipe(list(islice(cycle(batches), 100)))
    )
    snn = ann2snn.FXConverter(made).convert(copy.deepcopy(network).eval())
    functional.set_step_mode(snn, step_mode)

    def simulate(images: Tensor) -> Tensor:
        functional.reset_net(snn)
        if step_mode == "m":
            return snn(images.unsqueeze(0).expand(timesteps, *images.shape)).mean(0)
        return sum(snn(images) for _ in range(timesteps)) / timesteps  # type: ignore[return-value]

    return simulate


def sinabs(network: nn.Module, batches: Batches, timesteps: int, binary: bool = False) -> Simulate:
    """from_model: ReLUs become IF neurons with threshold 1, which emit several spikes in a step (default) or one."""
    from sinabs.activation import MultiSpike, SingleSpike
    from sinabs.from_torch import from_model

    converted = from_model(
        copy.deepcopy(network).eval(), num_timesteps=timesteps, spike_fn=SingleSpike if binary else MultiSpike
    )

    def simulate(images: Tensor) -> Tensor:
        converted.reset_states()
        outputs = converted.spiking_model(images.repeat_interleave(timesteps, 0))  # [N·T, …], images first
        return outputs.unflatten(0, (len(images), timesteps)).mean(1)

    return simulate


def snntorch(network: nn.Module, batches: Batches, timesteps: int) -> Simulate:
    """snnTorch converts no networks: the network that snnconv converts, simulated with snnTorch's neurons (through NIR)."""
    import snnconv

    snn = snnconv.convert(network, batches)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.nir"
        snnconv.export(snn, path, example=batches[0][0][:1])
        read = snnconv.readers.snntorch(path)

    return lambda images: read.run(images, timesteps).mean(0)


def neurocuda(network: nn.Module, batches: Batches, timesteps: int) -> Simulate:
    """convert with its defaults: five epochs of QCFS, then five of fine-tuning unless the network is a deep residual one."""
    from models import reset_spiking  # type: ignore[import-not-found]  # installed beside the package
    from neurocuda import convert

    snn, _ = convert(copy.deepcopy(network), batches, test_loader=batches, verbose=False)
    snn.eval()

    def simulate(images: Tensor) -> Tensor:
        reset_spiking(snn)
        return sum(snn(images) for _ in range(timesteps)) / timesteps  # type: ignore[return-value]

    return simulate


def _with(convert: Callable[..., Simulate], **options: Any) -> Callable[[nn.Module, Batches, int], Simulate]:
    return lambda network, batches, timesteps: convert(network, batches, timesteps, **options)


PEERS = (
    Peer("snnconv", "snnconv", ours),
    Peer("SpikingJelly, rate coding 99.9 %", "spikingjelly", spikingjelly),
    Peer("SpikingJelly, the same, multi-step", "spikingjelly", _with(spikingjelly, step_mode="m")),
    Peer("SpikingJelly, local threshold balancing", "spikingjelly", _with(spikingjelly, recipe="ltb")),
    Peer("sinabs, several spikes a step", "sinabs", sinabs),
    Peer("sinabs, one spike a step", "sinabs", _with(sinabs, binary=True)),
    Peer("snnTorch, converted by snnconv", "snntorch", snntorch),
    Peer("NeuroCUDA", "neurocuda", neurocuda, trains=True),
)


def attempt(action: Callable[[], Any]) -> tuple[Any, str]:
    """The value of `action` and "", or None and a line that says why there is none; what it prints is dropped."""
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        warnings.simplefilter("ignore")
        try:
            return action(), ""
        except ImportError as error:
            return None, f"not installed: {error}"
        except Exception as error:
            return None, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"
