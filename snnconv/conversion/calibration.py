"""Thresholds from activations: the θ for which the quantized activation of a layer approximates its ReLU."""

import logging
import math
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.conversion.rules import Rule, of_currents
from snnconv.data.batches import in_batches
from snnconv.nn.graph.kinds import is_activation
from snnconv.nn.graph.rewrite import replace_modules, set_submodule
from snnconv.runtime.error_notes import noting_inputs
from snnconv.spiking.operators.base import Encoder

log = logging.getLogger(__name__)


class _Observer(nn.Module):
    """Stores a sample of the absolute values of its outputs: a tensor [C, M] for each batch (C = 1 unless `per_channel`).

    Inputs are clipped to [`floor`, `ceiling`]; the defaults make it a ReLU.  The sample holds `per_image` random values of each
    image (with `per_channel`, of each of its channels), and the largest value of the batch.  With `currents` it holds random
    values of the inputs, without the largest one.
    """

    def __init__(
        self,
        per_image: int,
        per_channel: bool = False,
        ceiling: float = math.inf,
        floor: float = 0.0,
        currents: bool = False,
    ) -> None:
        super().__init__()
        self.currents = currents
        self.floor, self.ceiling = floor, ceiling
        self.per_image, self.per_channel, self.generator = per_image, per_channel, torch.Generator().manual_seed(0)
        self.samples: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        output = x.clamp(self.floor, self.ceiling)
        values = x.float() if self.currents else output.float() if self.floor == 0 else output.float().abs()
        values = values.flatten(2) if self.per_channel and x.dim() > 2 else values.flatten(1)
        values = values if values.dim() == 3 else values.unsqueeze(2 if self.per_channel else 1)  # [N, C, M]
        largest = []
        if values.shape[2] > self.per_image:
            largest = [] if self.currents else [values.amax((0, 2)).unsqueeze(1)]
            places = torch.randperm(values.shape[2], generator=self.generator)[: self.per_image]
            values = values[:, :, places.to(values.device)]
        if self.currents and self.floor < 0:  # θ is the same for both signs
            values = torch.cat([values, -values], 2)
        self.samples.append(torch.cat([*largest, values.transpose(0, 1).flatten(1)], 1))
        return output


def ceiling(network: nn.Module, path: str) -> float:
    """The largest output of the activation at `path` if it is a clipped ReLU (ReLU6, …), else infinity."""
    return float(getattr(network.get_submodule(path), "ceiling", math.inf))


def lowest(network: nn.Module, path: str) -> float:
    """The smallest output of the module at `path`: 0 for a ReLU, −∞ for a signed signal."""
    return -math.inf if isinstance(network.get_submodule(path), Encoder) else 0.0


@torch.no_grad()
def observed_thresholds(
    network: nn.Module,
    paths: Collection[str],
    batches: Iterable[tuple[Tensor, Any]],
    rule: Rule,
    *,
    levels: int | None = None,
    per_channel: bool = False,
    momentum: float | None = None,
    batch_size: int = 50,
    per_image: int = 256,
) -> dict[str, float | Tensor]:
    """θ of the activations at `paths`, by path: `rule` applied to ReLU outputs on all `batches`, in eval mode.

    For an `Encoder`, whose signal is signed, the rule is applied to absolute values.  A rule of currents (`rules.normal`) is
    applied to the inputs of the activations, of an `Encoder` with either sign; θ is then at most the bound of a clipped ReLU.

    Returns one number per layer, or [C] if `per_channel` (a channel that is never active gets the layer's largest θ).  `levels` is
    the argument of the rule, by default the activation's own levels.  With `momentum` m the rule is applied to `batch_size` images
    at a time, θ ← m·θ + (1 − m)·rule(batch).  ValueError without images, or naming a layer that is never active.
    """
    if levels is not None and (type(levels) is not int or levels < 1):
        raise ValueError(f"levels={levels}: must be an integer of at least 1")
    if momentum is not None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: must be at least 0 and below 1")
        batches = in_batches(batches, batch_size)
    plain = replace_modules(network, (), nn.Identity).eval()
    observers = {
        path: _Observer(per_image, per_channel, ceiling(network, path), lowest(network, path), of_currents(rule))
        for path in paths
    }
    for path, observer in observers.items():
        set_submodule(plain, path, observer)
    for images, _ in batches:
        with noting_inputs(network, images):
            plain.to(images.device)(images)
    thresholds: dict[str, float | Tensor] = {}
    for path, observer in observers.items():
        if not observer.samples:
            raise ValueError(
                f"{path}: there are no calibration images to compute its threshold from; pass calibration data (data.calibration)"
            )
        parts = observer.samples if per_channel else [samples[0] for samples in observer.samples]
        if not all(part.isfinite().all() for part in parts):
            raise ValueError(
                f"{path}: its activations on the calibration images are NaN or infinite; check the images and the weights"
            )
        rule_levels = levels if levels is not None else int(network.get_submodule(path).levels)  # type: ignore[arg-type]
        try:
            theta = _by_rule(rule, parts, rule_levels, momentum)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if of_currents(rule):
            theta = theta.clamp_max(ceiling(network, path))
        if not theta.max() > 0:
            raise ValueError(f"{path}: calibration gives a threshold of {theta.max():.4g}, because (almost) no calibration image "
                             "activates this layer; use more images (data.calibration) or the largest activation "
                             "(calibration=max, method=max_norm)")  # fmt: skip
        thresholds[path] = torch.where(theta > 0, theta, theta.max()) if per_channel else theta.item()
    return thresholds


def _by_rule(rule: Rule, batches: list[Tensor], levels: int, momentum: float | None) -> Tensor:
    """θ by `rule` from all samples together, or with `momentum` the moving average of θ over `batches`."""
    if momentum is None:
        return torch.as_tensor(rule(torch.cat(batches, -1), levels))
    theta, *rest = (torch.as_tensor(rule(samples, levels)).double() for samples in batches)
    for value in rest:
        theta = momentum * theta + (1 - momentum) * value
    return theta


@torch.no_grad()
def calibrate(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Any]],
    *,
    rule: Rule,
    momentum: float | None = None,
    batch_size: int = 50,
    per_image: int = 256,
) -> None:
    """Set the unknown thresholds of `network` (NaN, when its weights came from a ReLU network) by `rule`.

    The rule is applied to the activations of the ReLU network, of all images together, or with `momentum` as in
    `observed_thresholds`.  Other thresholds are not changed.  (With several processes, each uses its share of the images, and
    training starts from the thresholds of the first process.)
    """
    sites = {path: module for path, module in network.named_modules() if is_activation(module) and _is_unknown(module)}
    if not sites:
        return
    for path, threshold in observed_thresholds(
        network, sites, batches, rule, momentum=momentum, batch_size=batch_size, per_image=per_image
    ).items():
        sites[path].set_threshold(threshold)  # type: ignore[operator]
    log.info("Calibrated %d thresholds on ReLU activations", len(sites))


def _is_unknown(site: Any) -> bool:
    return bool(site.threshold.isnan().any())
