"""Direct input: every step receives the input itself, a constant current."""

from jaxtyping import Float
from torch import Tensor

from snnconv.spiking.encoders.base import InputEncoder


class Direct(InputEncoder):
    """The input itself at every step; layers before the first neuron are then computed once for all steps."""

    def encode(self, inputs: Float[Tensor, "N *_"], first: int, steps: int) -> Float[Tensor, "t *_"]:
        """The same inputs at every step."""
        return inputs.expand(steps, *inputs.shape)
