"""An integer network with example images and their results, which exported files must reproduce."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snnconv.hardware.export.checking import images_to_compare
from snnconv.hardware.integer import golden
from snnconv.hardware.integer.network import IntegerNetwork, integerize, single_timesteps
from snnconv.hardware.integer.program import Program, program_of
from snnconv.hardware.integer.ranges import bits_bound
from snnconv.runtime import files
from snnconv.spiking.model import SpikingModel


@dataclass(frozen=True)
class Example:
    """An integer network, its program, integer images [N, …], and the results of the golden model on them."""

    network: IntegerNetwork
    program: Program
    images: np.ndarray
    outcome: golden.Outcome

    @property
    def compared(self) -> str:
        """The number of compared values, as text."""
        spikes = sum(values.size for values in self.outcome[1].values())
        timesteps, images, *_ = self.outcome[0].shape
        return f"{spikes} spikes and {self.outcome[0].size} logits on {images} images, {timesteps} timesteps"

    def summary(self) -> dict[str, Any]:
        """Number of compared images, observed widths of membranes, and widths that no image can exceed in these timesteps."""
        return {"images": len(self.images), **self.network.summary(), **bits_bound(self.program, len(self.outcome[0]))}

    def require_equal(self, what: str, actual: golden.Outcome) -> None:
        """Raise a ValueError with the first difference of `actual` from the golden model."""
        different = golden.difference(actual, self.outcome)
        if different:
            raise ValueError(f"{what} differs from the golden model: {different}; nothing was written")


def example_of(snn: SpikingModel, data: Any, images: int, timesteps: int, **widths: Any) -> Example:
    """The integer network of `snn`, whose results in torch equal the golden model on the first test images.

    ValueError naming the layer if they differ, or if the network has no integer counterpart.
    """
    network = integerize(snn, data.calibration, timesteps=single_timesteps(snn, [timesteps]), **widths)
    shown = images_to_compare(data.test, images)
    program = program_of(network, shown.shape[1:])
    digitized = program.digitize(shown.numpy())
    example = Example(network, program, digitized, golden.run(program, digitized, timesteps))
    example.require_equal("the network in torch", golden.outcome(network, shown, timesteps))
    network.require_exact()
    return example


def write_all(folder: Path, contents: dict[str, bytes]) -> None:
    """Write all files, or none if one cannot be written."""
    written = []
    try:
        for name, content in contents.items():
            files.replace(folder / name, content)
            written.append(folder / name)
    except OSError:
        for path in written:
            path.unlink()
        raise
