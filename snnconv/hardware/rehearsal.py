"""Rehearsals of exports and of integer networks on a few images, with the settings of the later command; no file is kept."""

import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from snnconv.conversion.demands import Demand
from snnconv.hardware.integer.golden import verified
from snnconv.hardware.integer.neuron import WidthError
from snnconv.hardware.integer.program import program_of
from snnconv.hardware.integer.ranges import bits_bound, described
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.simulation import wanted_timesteps

log = logging.getLogger(__name__)


def exporting(format: str, export: Callable[..., Any], ann: nn.Module) -> Demand:
    """The demand that `export` writes `ann` or its spiking network."""

    def exported(snn: SpikingModel, images: Tensor) -> None:
        data = _data(images)
        with TemporaryDirectory() as folder:
            try:
                export(ann, snn, data, Path(folder))
            except ValueError as error:
                kind = WidthError if isinstance(error, WidthError) else ValueError
                raise kind(f"export={format}: {error}") from error

    return exported


def integers(timesteps: Any, settings: dict[str, Any]) -> Demand:
    """The demand that the spiking network can be converted to integers with `settings` (conf/integer/); logs their widths."""
    widths = {key: value for key, value in settings.items() if key not in ("beside_float", "average_bits")}

    def integerized(snn: SpikingModel, images: Tensor) -> None:
        data = _data(images)
        network, compared = verified(snn, data.calibration, data.test, timesteps, **widths)
        network.require_exact()
        if compared:
            steps = max(wanted_timesteps(timesteps))
            bounds = bits_bound(program_of(network, images.shape[1:]), steps)
            log.info("Integers, T = %d, %d images: %s", steps, compared, described(network.widths(), *bounds.values()))

    return integerized


def untrained(demand: Demand) -> Demand:
    """`demand` of a network whose weights or thresholds will change: numbers that exceed their width are only a warning."""

    def lenient(snn: SpikingModel, images: Tensor) -> None:
        try:
            demand(snn, images)
        except WidthError as error:
            log.warning("%s (with the present weights and thresholds; training or calibration will change them)", error)

    return lenient


def _data(images: Tensor) -> SimpleNamespace:
    batches = [(images.float().cpu(), None)]
    return SimpleNamespace(test=batches, calibration=batches)
