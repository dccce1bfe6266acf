"""Distances of a network's outputs from those of a teacher, for distillation."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def distillation(
    logits: Float[Tensor, "*N K"], teacher: Float[Tensor, "*N K"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """τ² · KL(softmax(teacher/τ) ‖ softmax(logits/τ)), mean over the samples.  Source: Hinton et al., 2015.

    The factor τ² keeps the size of the gradient whatever the temperature.
    """
    ours, theirs = (logits / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)
    return temperature**2 * (theirs.exp() * (theirs - ours)).sum(-1).mean()


def bernoulli_distance(
    logits: Float[Tensor, "*N K"], teacher: Float[Tensor, "*N K"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """τ² · KL of the probability of each label, sigmoid(·/τ), mean over samples and labels."""
    ours, theirs = logits / temperature, teacher / temperature
    wanted = theirs.sigmoid()
    both = F.binary_cross_entropy_with_logits(ours, wanted) - F.binary_cross_entropy_with_logits(theirs, wanted)
    return temperature**2 * both
