"""Thresholds from activations: what θ a layer needs, so that its quantized activation comes close to its ReLU."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.functional import qcfs
from snnconv.surgery import is_activation, replace_modules

log = logging.getLogger(__name__)
Samples = Float[Tensor, "M"]  # ReLU activations of one layer


def largest(samples: Samples, levels: int) -> float:
    """The largest activation: nothing is clipped.  Source: Diehl et al., IJCNN 2015 (max-norm)."""
    return samples.max().item()


def percentile(samples: Samples, levels: int, percent: float = 99.9) -> float:
    """The smallest activation that at least `percent` % do not exceed, zeros included.

    Source: Rueckauer et al., Front. Neurosci. 2017 (robust norm).
    """
    if not 0 < percent <= 100:
        raise ValueError(f"calibration.rule.percent={percent}: above 0 and at most 100")
    rank = -int(-len(samples) * percent // 100)  # rounded up
    return samples.kthvalue(max(rank, 1)).values.item()


def least_squares(samples: Samples, levels: int, candidates: int = 100) -> float:
    """The θ of least Σ (relu(z) − qcfs(z, θ, L))² among k/`candidates` of the largest activation, k = 1, 2, …

    Source: Li et al., ICML 2021 (SNN calibration), a grid of 95 with the clip-floor of T steps; here with the activation
    itself, L = `levels`.
    """
    if candidates < 1:
        raise ValueError(f"calibration.rule.candidates={candidates}: at least 1")
    grid = samples.max() * torch.arange(1, candidates + 1, device=samples.device) / candidates
    errors = [(samples - qcfs(samples, threshold, levels)).double().square().sum() for threshold in grid]
    return grid[int(torch.stack(errors).argmin())].item()


class _Observer(nn.Module):
    """ReLU that keeps some of what it puts out: `per_image` values of each image, and the largest of each batch."""

    def __init__(self, per_image: int) -> None:
        super().__init__()
        self.per_image, self.generator = per_image, torch.Generator().manual_seed(0)
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        output = x.clamp_min(0)
        values = output.flatten(1).float()
        if values.shape[1] > self.per_image:
            places = torch.randperm(values.shape[1], generator=self.generator)[: self.per_image]
            self.kept.append(values.max().reshape(1))
            values = values[:, places.to(values.device)]
        self.kept.append(values.flatten())
        return output


@torch.no_grad()
def calibrate(
    network: nn.Module, batches: Iterable[tuple[Tensor, Any]], *, rule: Callable[..., float], per_image: int = 256
) -> None:
    """Set the thresholds of `network` that are not known yet (NaN: its weights came from a ReLU network), by `rule`.

    `rule(samples, levels)` sees the layer's activations in the ReLU network, in eval mode, on all `batches`: `per_image` of
    each image, drawn evenly, and the largest.  Thresholds that are known stay.  ValueError names a layer that is never
    active.  (With several processes each sees its share of the images, and training starts from the first one's thresholds.)
    """
    sites = {path: module for path, module in network.named_modules() if is_activation(module) and _is_unknown(module)}
    if not sites:
        return
    kinds = tuple({type(module) for module in sites.values()})
    plain = replace_modules(network, kinds, lambda site: _Observer(per_image) if _is_unknown(site) else site).eval()
    for images, _ in batches:
        plain.to(images.device)(images)
    for path, module in sites.items():
        observer: Any = plain.get_submodule(path)
        threshold = rule(torch.cat(observer.kept), module.levels)
        if not threshold > 0:
            raise ValueError(f"{path}: calibration gives a threshold of {threshold:.4g}, so (almost) no calibration image "
                             "makes this layer active; use more images (data.calibration) or calibration=max")  # fmt: skip
        module.set_threshold(threshold)  # type: ignore[operator]
    log.info("Calibrated %d thresholds on ReLU activations", len(sites))


def _is_unknown(site: Any) -> bool:
    return bool(site.threshold.isnan().any())
