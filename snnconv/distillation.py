"""A trained network as the teacher of another."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.runtime.checkpoint import describe_ann, load_ann


def distillation(
    logits: Float[Tensor, "*N K"], teacher: Float[Tensor, "*N K"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """τ² · KL(softmax(teacher/τ) ‖ softmax(logits/τ)), mean over the samples.  Source: Hinton et al., 2015.

    The factor τ² keeps the size of the gradient whatever the temperature.
    """
    ours, theirs = (logits / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)
    return temperature**2 * (theirs.exp() * (theirs - ours)).sum(-1).mean()


def require_teacher(run: str) -> None:
    """ValueError unless the folder `run` holds a trained network."""
    try:
        describe_ann(run)
    except (OSError, ValueError) as error:
        raise ValueError(f"fit.teacher={run}: {str(error).removeprefix(f'{run}: ')}") from error


def load_teacher(
    run: str,
    images: Tensor,
    logits: Tensor,
    *,
    trust: Sequence[str] = (),
    channels_last: bool = False,
    compile: bool = False,
) -> Callable[[Tensor], Tensor]:
    """The network in the run folder `run` as a function of images, in eval mode, without gradients.

    ValueError if there is none, or if it does not make of `images` something of the shape of `logits`.
    """
    require_teacher(run)
    with torch.random.fork_rng(devices=[]):  # building it draws weights, which must not move the run that it teaches
        network = load_ann(run, trust=trust).to(images.device)
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        classes = torch.no_grad()(network)(images[:1]).shape[-1]
    except RuntimeError as error:
        shape = list(images.shape[1:])
        raise ValueError(f"fit.teacher={run}: its network cannot take images of {shape} ({error})") from error
    if classes != logits.shape[-1]:
        raise ValueError(f"fit.teacher={run}: its network knows {classes} classes, this one {logits.shape[-1]}")
    teach: nn.Module = torch.compile(network) if compile else network  # type: ignore[assignment]
    return torch.no_grad()(teach)
