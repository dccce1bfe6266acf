"""Conversion methods: the `Method` class, its registration, thresholds of activations, and rehearsals."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from hydra.utils import get_method
from torch import Tensor, nn

from snnconv.conversion.calibration import observed_thresholds
from snnconv.conversion.entrance import entered
from snnconv.conversion.obstacles import require_convertible
from snnconv.conversion.rules import Rule, of_currents
from snnconv.nn.graph.kinds import is_activation, trained_threshold
from snnconv.nn.models.over_time import MeanOverTime
from snnconv.spiking.encoders.frames import Frames
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.neurons.base import Threshold
from snnconv.spiking.operators.choice import Choice, auto
from snnconv.spiking.operators.placement import place_operators
from snnconv.spiking.operators.signals import departures

ENOUGH = 2048  # number of activations that most rules accept
MOST = 2**20  # assumed number of activations of a layer if the number of calibration images is not known
Convert = Callable[..., SpikingModel]
METHODS: dict[str, "Method"] = {}  # by name; filled when the modules of `snnconv.conversion.methods` are imported


@dataclass(eq=False)
class Method:
    """A conversion method: call it as `method(ann, batches, **settings) -> SpikingModel`.

    A network with activations other than `takes` raises a ValueError before anything is computed, naming the path of every layer
    that cannot be converted.
    """

    name: str  # as in conf/method/
    function: Convert
    takes: tuple[type[nn.Module], ...] | None  # kinds of activations; None: those of the method that `base` names
    summary: str  # one line, with the source
    rehearse: Callable[..., Any]  # a quick trial with the same arguments, which raises the errors of `function`
    defaults: Mapping[str, Any] = field(default_factory=dict)  # settings that differ from those in the signature
    place: Callable[[nn.Module, tuple[type[nn.Module], ...], Choice], nn.Module] = place_operators  # inserts operators

    def __post_init__(self) -> None:
        functools.update_wrapper(self, self.function)
        signature = inspect.signature(self.function)
        if self.takes:
            operators = inspect.Parameter("operators", inspect.Parameter.KEYWORD_ONLY, default=auto)
            signature = signature.replace(parameters=[*signature.parameters.values(), operators])
        self.__signature__ = signature

    def __call__(self, ann: nn.Module, batches: Iterable, *, operators: Choice = auto, **settings: Any) -> SpikingModel:
        """`ann` converted to a spiking network; `operators` (conf/operators/) replace non-linear layers without a neuron."""
        self.require_kinds(settings)
        original = ann
        if self.takes:
            ann, batches = entered(ann, batches, self.takes)
        snn = self.function(self.prepared(ann, operators), batches, **settings)
        snn.method = self.name
        snn.latency = replace(snn.latency, **departures(snn.network))  # type: ignore[arg-type]
        return snn.encoded(Frames(keep_axis=True)) if isinstance(original, MeanOverTime) else snn

    def prepared(self, ann: nn.Module, operators: Choice = auto) -> nn.Module:
        """`ann` with its `operators` inserted; ValueError if it cannot be converted."""
        if self.takes:
            ann = self.place(ann, self.takes, operators)
            require_convertible(ann, self.takes)
        return ann

    def require_kinds(self, settings: Mapping[str, Any]) -> None:
        """Raise a ValueError if a setting that is true or false, or a number by default, has a value of another kind."""
        defaults = self.settings()
        for name, value in settings.items():
            default = defaults.get(name)
            if isinstance(default, bool) and type(value) is not bool:  # the string "no" is true
                raise ValueError(f"method.{name}={value!r}: must be true or false")
            if type(default) in (int, float) and isinstance(value, str):
                raise ValueError(f"method.{name}={value!r}: must be a number")

    def settings(self) -> dict[str, Any]:
        """Every setting with its default, or `inspect.Parameter.empty` if it has none."""
        parameters = inspect.signature(self).parameters.values()
        keywords = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        return {**keywords, **self.defaults}

    def variant(self, name: str, summary: str, **defaults: Any) -> "Method":
        """The same method under another name with other defaults."""
        return register(replace(self, name=name, summary=summary, defaults={**self.defaults, **defaults}))


def register(method: Method) -> Method:
    """Add `method` to `METHODS` under its name."""
    METHODS[method.name] = method
    return method


def converts(
    *kinds: type[nn.Module],
    rehearse: Callable[..., Any] | None = None,
    place: Callable[..., nn.Module] = place_operators,
    only_variants: bool = False,
    **defaults: Any,
) -> Callable[[Convert], Method]:
    """Decorator that makes a `Method` of `convert(ann, batches, *, …)`, for networks whose activations are of `kinds`.

    The name of the method is the name of its module; its summary is the first line of the module's docstring.  `defaults` are
    settings that differ from those in the signature; `rehearse` is a quick trial for a method that takes long; `place` inserts
    operators.  With `only_variants` the method itself is not registered, only its variants are.
    """

    def decorate(convert: Convert) -> Method:
        summary = (sys.modules[convert.__module__].__doc__ or "").partition("\n")[0]
        name = convert.__module__.rpartition(".")[2]
        method = Method(name, convert, kinds or None, summary, rehearse or convert, defaults, place)
        return method if only_variants else register(method)

    return decorate


def _bound(convert: Any) -> tuple[Any, dict[str, Any]]:
    """A method, and the settings that the configuration has bound to it (with `_partial_`)."""
    return (convert.func, dict(convert.keywords)) if isinstance(convert, functools.partial) else (convert, {})


def takes(convert: Any) -> tuple[type[nn.Module], ...] | None:
    """The kinds of activations that a method, or its `base`, converts; None if it does not declare them."""
    method, settings = _bound(convert)
    base = settings.get("base")
    if base is None or getattr(method, "takes", None):
        return getattr(method, "takes", None)
    return takes(get_method(base["_target_"]) if isinstance(base, Mapping) else base)


def operators_of(convert: Any) -> Choice:
    """The choice of operators of a method, or of its `base`."""
    settings = _bound(convert)[1]
    base, chosen = settings.get("base"), settings.get("operators", auto)
    if base is not None and "operators" not in settings:
        return operators_of(functools.partial(convert, **base) if isinstance(base, Mapping) else base)
    return get_method(chosen["_target_"]) if isinstance(chosen, Mapping) else chosen


def rehearse(convert: Any, ann: nn.Module, batches: Iterable, calibration: int | None = None, images: int = 32) -> Any:
    """Try `convert` on a few images, so that its errors appear now and not after hours of training.

    A rule for thresholds receives as many activations as it will receive from `calibration` images.
    Returns the result of the trial: a `SpikingModel`, or None if a method has no result before it is trained.
    """
    method, settings = _bound(convert)
    if isinstance(method, Method):
        method.require_kinds(settings)
    sample = None if calibration == 0 else next(((x[:images], y[:images]) for x, y in batches), None)
    if settings.get("rule") is not None and sample:
        share = None if calibration is None else calibration / len(sample[0])
        rule = settings["rule"]
        settings["rule"] = functools.partial(_of_as_many, rule, share)
        settings["rule"].of_currents = of_currents(rule)
    if isinstance(method, Method) and method.takes:
        ann, _ = entered(ann, [sample] if sample else [], method.takes)
        ann = method.prepared(ann, settings.pop("operators", auto))
    return (method.rehearse if isinstance(method, Method) else method)(ann, [sample] if sample else [], **settings)


def _of_as_many(rule: Rule, share: float | None, samples: Tensor, levels: int) -> Tensor:
    """θ by `rule` from `samples`, repeated `share` times (None: unknown), or from fewer if the rule accepts them."""
    total = MOST if share is None else int(samples.shape[-1] * share)
    try:
        return rule(_repeated(samples, min(total, ENOUGH)), levels)
    except ValueError:
        return rule(_repeated(samples, min(total, MOST)), levels)


def _repeated(samples: Tensor, count: int) -> Tensor:
    return torch.cat([samples] * -(-count // samples.shape[-1]), -1)[..., :count]


def thresholds(
    ann: nn.Module,
    kinds: type | tuple[type, ...],
    batches: Iterable,
    rule: Rule | None = None,
    *,
    levels: int = 8,
    per_channel: bool = False,
) -> dict[str, Threshold]:
    """θ of every activation of `kinds`, by path: the trained threshold if it has one, else by `rule` from calibration images.

    ValueError if a rule is needed but missing, or if there are no images.
    """
    sites: dict[str, Any] = {path: module for path, module in ann.named_modules() if isinstance(module, kinds)}
    trained = {path: trained_threshold(site) for path, site in sites.items() if is_activation(site)}
    plain = [path for path in sites if path not in trained]
    if not plain:
        return trained  # type: ignore[return-value]
    if rule is None:
        raise ValueError(f"{plain[0]}: has no threshold, and there is no rule to compute one (method.rule)")
    return trained | observed_thresholds(ann, plain, batches, rule, levels=levels, per_channel=per_channel)


def training_of(ann: nn.Module) -> str:
    """`needs_training` for a method that changes no weights: "activation" if thresholds were trained, else "none"."""
    return "activation" if any(is_activation(module) for module in ann.modules()) else "none"
