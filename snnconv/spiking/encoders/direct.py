"""Direct input: the values themselves at every step, a constant current."""

from jaxtyping import Float
from torch import Tensor

from snnconv.spiking.encoders.base import InputEncoder


class Direct(InputEncoder):
    """The inputs at every step; what lies before the first neuron is then computed once for all steps."""

    def encode(self, inputs: Float[Tensor, "N *_"], first: int, steps: int) -> Float[Tensor, "t *_"]:
        """The same at every step."""
        return inputs.expand(steps, *inputs.shape)
