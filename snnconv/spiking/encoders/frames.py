"""Inputs that change over time: frame t of [N, frames, C, …] at step t."""

from jaxtyping import Float
from torch import Tensor

from snnconv.spiking.encoders.base import InputEncoder


class Frames(InputEncoder):
    """Frame t at step t; after the last frame it starts again with the first.

    keep_axis  the input of a step is [N, 1, C, …], for networks that average over frames (`MeanOverTime`).
    """

    name = "frames"

    def __init__(self, keep_axis: bool = False) -> None:
        self.keep_axis = keep_axis

    def encode(self, inputs: Float[Tensor, "N frames *_"], first: int, steps: int) -> Float[Tensor, "t *_"]:
        """The frames of these steps."""
        numbers = [t % inputs.shape[1] for t in range(first, first + steps)]
        frames = inputs[:, numbers].movedim(1, 0)
        return frames.unsqueeze(2) if self.keep_axis else frames
