"""What conversion methods share: which activations one takes, thresholds of the sites, neurons in the place of activations."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from hydra.utils import get_method
from torch import Tensor, nn

from snnconv.conversion.calibration import Rule, observed_thresholds
from snnconv.conversion.obstacles import require_convertible
from snnconv.nn.graph.kinds import is_activation
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.neurons.base import Threshold

FEW = 2048  # activations that rules as we know them are content with
Convert = Callable[..., SpikingModel]


def converts(*kinds: type[nn.Module]) -> Callable[[Convert], Convert]:
    """Decorates a method's `convert(ann, batches, …)`: it takes networks whose activations are of `kinds`.

    ValueError names the path of every layer of another network that cannot be carried, before anything is computed.
    """

    def decorate(convert: Convert) -> Convert:
        @functools.wraps(convert)
        def checked(ann: nn.Module, batches: Iterable, **settings: Any) -> SpikingModel:
            require_convertible(ann, kinds)
            return convert(ann, batches, **settings)

        checked.takes = kinds  # type: ignore[attr-defined]
        return checked

    return decorate


def takes(convert: Any) -> tuple[type[nn.Module], ...] | None:
    """The kinds of activations from which a method starts, or the one it is based on (`base`); None if it does not say."""
    function, base = getattr(convert, "func", convert), getattr(convert, "keywords", {}).get("base")
    if hasattr(function, "takes") or base is None:
        return getattr(function, "takes", None)
    return takes(get_method(base["_target_"]) if isinstance(base, Mapping) else base)


def rehearse(convert: Any, ann: nn.Module, batches: Iterable, images: int = 32) -> Any:
    """Try `convert` on a few images: what it refuses is told now, not after hours of training.  Returns what it gives.

    A method that takes long by itself says with `convert.rehearse = …`, a function of the same arguments, what to try instead.
    """
    function, settings = getattr(convert, "func", convert), dict(getattr(convert, "keywords", {}))
    if settings.get("rule") is not None:
        settings["rule"] = functools.partial(_of_any_number, settings["rule"])
    few = next(((x[:images], y[:images]) for x, y in batches), None)
    return getattr(function, "rehearse", function)(ann, [few] if few else [], **settings)


def _of_any_number(rule: Rule, samples: Tensor, levels: int) -> Tensor:
    """θ by `rule`, from `samples` repeated where a rule takes more than a rehearsal has."""
    return rule(torch.cat([samples] * max(1, FEW // samples.shape[-1]), -1), levels)


def thresholds(
    ann: nn.Module,
    kinds: type | tuple[type, ...],
    batches: Iterable,
    rule: Rule | None = None,
    *,
    levels: int = 8,
    per_channel: bool = False,
) -> dict[str, Threshold]:
    """θ of every activation of `kinds`, by path: as it was trained where it has one, else by `rule` from calibration images.

    ValueError if a rule is needed and there is none, or there are no images.
    """
    sites: dict[str, Any] = {path: module for path, module in ann.named_modules() if isinstance(module, kinds)}
    trained = {path: site.threshold.item() for path, site in sites.items() if is_activation(site)}
    plain = [path for path in sites if path not in trained]
    if not plain:
        return trained  # type: ignore[return-value]
    if rule is None:
        raise ValueError(f"{plain[0]}: has no threshold, and this method was given no rule to find one (method.rule)")
    return trained | observed_thresholds(ann, plain, batches, rule, levels=levels, per_channel=per_channel)


def training_of(ann: nn.Module) -> str:
    """`needs_training` of a method that changes no weights: "activation" if thresholds were trained, else "none"."""
    return "activation" if any(is_activation(module) for module in ann.modules()) else "none"
