"""A trained network as the teacher of another."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.nn.graph.kinds import is_activation
from snnconv.nn.kernels import to_channels_last
from snnconv.runtime.checkpoint import describe_ann, load_ann


def require_teacher(run: str, setting: str = "fit.teacher") -> None:
    """Raise a ValueError that names `setting` unless the folder `run` contains a trained network."""
    try:
        describe_ann(run)
    except (OSError, ValueError) as error:
        raise ValueError(f"{setting}={run}: {str(error).removeprefix(f'{run}: ')}") from error


def load_teacher(
    run: str,
    images: Tensor,
    shape: Sequence[int],
    *,
    trust: Sequence[str] = (),
    channels_last: bool = False,
    setting: str = "fit.teacher",
) -> nn.Module:
    """The network in the run folder `run`, in eval mode, without gradients.

    ValueError if there is none, or if its output for `images` is not [N, *`shape`].
    """
    require_teacher(run, setting)
    with torch.random.fork_rng(devices=[]):  # building it draws weights, which must not move the run that it teaches
        network = load_ann(run, trust=trust).to(images.device).requires_grad_(False)
    if channels_last:
        to_channels_last(network)
    try:
        taught = network(images[:1]).shape[1:]
    except RuntimeError as error:
        size = list(images.shape[1:])
        raise ValueError(f"{setting}={run}: its network does not accept images of {size} ({error})") from error
    if [*taught] != [*shape]:
        raise ValueError(f"{setting}={run}: its network has outputs {[*taught]}, this network has {[*shape]}")
    return network


class LayerDistances:
    """The distance between the activations of a student and of its teacher for the same images.

    Layers are paired by the path of their activation; pairs of different shapes (after pruning) are skipped.  ValueError if no pair
    is left.  Source: Romero et al., ICLR 2015 (FitNets), with a hint in every layer.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        self.outputs: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
        self.hooks = [
            module.register_forward_hook(functools.partial(_store, outputs, path))
            for network, outputs in zip((student, teacher), self.outputs, strict=True)
            for path, module in network.named_modules()
            if is_activation(module) or isinstance(module, nn.ReLU)
        ]

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self.hooks:
            hook.remove()

    def __call__(self) -> Float[Tensor, ""]:
        """Mean over layers of |student − teacher|² / |teacher|²."""
        ours, theirs = self.outputs
        shared = [path for path in ours if path in theirs and ours[path].shape == theirs[path].shape]
        if not shared:
            raise ValueError(
                "fit.distill_layers: no activation has the same path and shape as an activation of the teacher"
            )
        each = [
            (ours[path].float() - theirs[path].float()).square().sum()
            / theirs[path].float().square().sum().clamp_min(1e-12)
            for path in shared
        ]
        ours.clear()
        theirs.clear()
        return torch.stack(each).mean()


@torch.no_grad()
def require_shared_layers(student: nn.Module, teacher: nn.Module, images: Tensor) -> None:
    """ValueError if no activation of `student` has the path and the output shape of an activation of `teacher`."""
    distances = LayerDistances(student, teacher)
    try:
        student.eval()(images), teacher.eval()(images)
        distances()
    finally:
        distances.close()


def _store(outputs: dict[str, Tensor], path: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    outputs[path] = output
