"""Accuracy of an ANN and of its converted network on disturbed images.

Corruptions are independent of the network.  Attacks follow the gradient of the ANN, and the SNN receives the same images
(transfer).  Input and output of both are pixels in [0, 1], [N, C, H, W].
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.data.batches import Batches
from snnconv.runtime import distributed
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.tasks import Task

Pixels = Float[Tensor, "N C H W"]
Gradient = Callable[[Pixels], Pixels]  # of the ANN's loss on the true labels
Disturbance = Callable[[Pixels, Gradient], Pixels]


def noise(pixels: Pixels, gradient: Gradient, *, sigma: float, seed: int = 0) -> Pixels:
    """Gaussian noise of standard deviation `sigma`; the same for the same batch."""
    generator = torch.Generator().manual_seed(seed)
    return (pixels + sigma * torch.randn(pixels.shape, generator=generator).to(pixels)).clamp(0, 1)


def blur(pixels: Pixels, gradient: Gradient, *, sigma: float) -> Pixels:
    """Gaussian blur, `sigma` in pixels, cut off at 3 sigma."""
    size = 2 * max(1, round(3 * sigma)) + 1
    from torchvision.transforms.v2 import functional as transforms

    return transforms.gaussian_blur(pixels, [size, size], [sigma, sigma])


def contrast(pixels: Pixels, gradient: Gradient, *, factor: float) -> Pixels:
    """Differences from the mean grey of an image times `factor`."""
    from torchvision.transforms.v2 import functional as transforms

    return transforms.adjust_contrast(pixels, factor)


def brightness(pixels: Pixels, gradient: Gradient, *, factor: float) -> Pixels:
    """Pixels times `factor`."""
    from torchvision.transforms.v2 import functional as transforms

    return transforms.adjust_brightness(pixels, factor)


def fgsm(pixels: Pixels, gradient: Gradient, *, epsilon: float) -> Pixels:
    """One step of size `epsilon` along the sign of the gradient.  Goodfellow et al., ICLR 2015."""
    return (pixels + epsilon * gradient(pixels).sign()).clamp(0, 1)


def pgd(pixels: Pixels, gradient: Gradient, *, epsilon: float, steps: int = 10, rate: float = 0.25) -> Pixels:
    """`steps` steps of size `rate`·`epsilon`, each projected to a distance of `epsilon` from the image.  Madry et al., ICLR 2018.

    Starts from the image itself, so the result is deterministic.
    """
    attacked = pixels
    for _ in range(steps):
        attacked = attacked + rate * epsilon * gradient(attacked).sign()
        attacked = attacked.clamp(pixels - epsilon, pixels + epsilon).clamp(0, 1)
    return attacked


def robustness(
    ann: nn.Module,
    snn: SpikingModel,
    batches: Batches,
    disturbances: Mapping[str, Disturbance],
    timesteps: Sequence[int],
    images: int,
) -> dict[str, dict[str, Any]]:
    """Accuracy {"ann": …, "snn": {T: …}} on the first `images` of `batches`: undisturbed ("clean"), and for each disturbance."""
    was_training = ann.training
    ann.eval()
    every: dict[str, Disturbance] = {"clean": lambda pixels, gradient: pixels, **disturbances}
    try:
        accuracy: dict[str, dict[str, Any]] = {name: {"ann": 0.0, "snn": {}} for name in every}
        for part in snn.rounds(timesteps):  # where the network depends on T, it is prepared once for each T
            for name, each in every.items():
                accuracies = _accuracies(ann, snn, batches, each, part, images)
                accuracy[name] = {"ann": accuracies["ann"], "snn": accuracy[name]["snn"] | accuracies["snn"]}
    finally:
        ann.train(was_training)
    return accuracy


def pixels_of(x: Tensor, batches: Batches) -> Pixels:
    """Pixels in [0, 1] of normalized images; of bytes exactly k/255, so that normalizing them again gives the same images."""
    pixels = (x - batches.offset) / batches.scale
    return pixels.round() / batches.highest if batches.highest > 1 else pixels


def _accuracies(
    ann: nn.Module, snn: SpikingModel, batches: Batches, disturb: Disturbance, wanted: Sequence[int], images: int
) -> dict[str, Any]:
    right, count = torch.zeros(1 + len(wanted), dtype=torch.int64, device=batches.device), 0
    for x, labels in _first(batches, distributed.share_of(images)):
        pixels = pixels_of(x, batches)
        disturbed = disturb(pixels, _gradient(ann, snn.task, batches, labels))
        x = batches.highest * disturbed.detach() * batches.scale + batches.offset
        right = right + torch.stack([snn.task.right(logits, labels).sum() for logits in _answers(ann, snn, x, wanted)])
        count += len(x)
    total = distributed.sum_over_ranks(torch.tensor(count, device=batches.device)).item()
    ann_accuracy, *snn_accuracy = (distributed.sum_over_ranks(right) / total).tolist()
    return {"ann": ann_accuracy, "snn": dict(zip(wanted, snn_accuracy, strict=True))}


@torch.no_grad()
def _answers(ann: nn.Module, snn: SpikingModel, images: Tensor, wanted: Sequence[int]) -> list[Tensor]:
    """Logits of the ANN, and mean logits of the SNN at each T, from one run."""
    means = snn.read(snn(images, wanted[-1]))
    return [ann(images), *(means[t - 1] for t in wanted)]


def _gradient(ann: nn.Module, task: Task, batches: Batches, labels: Tensor) -> Gradient:
    @torch.enable_grad()
    def gradient(pixels: Pixels) -> Pixels:
        pixels = pixels.detach().requires_grad_()
        logits = ann(batches.highest * pixels * batches.scale + batches.offset)
        return torch.autograd.grad(task.loss(logits, labels) * len(labels), pixels)[0]

    return gradient


def _first(batches: Iterable[tuple[Tensor, Tensor]], left: int) -> Iterable[tuple[Tensor, Tensor]]:
    for x, labels in batches:
        if left > 0:
            yield x[:left], labels[:left]
        left -= len(x)
        if left <= 0:
            return
