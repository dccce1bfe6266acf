"""Every conversion method by name, and `convert`, which applies one to any network."""

import copy
import functools
import importlib
import inspect
import logging
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from snnconv.conversion.calibration import calibrate
from snnconv.conversion.entrance import entered, require_equal_without_inputs
from snnconv.conversion.method import METHODS, Method
from snnconv.conversion.obstacles import obstacles
from snnconv.conversion.rules import RULES, least_squares
from snnconv.data.loaders import Loader, device_of
from snnconv.nn.graph.capture import is_captured
from snnconv.nn.graph.kinds import is_activation
from snnconv.nn.graph.relus import replace_relus
from snnconv.runtime.settings import nearest
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.operators.choice import Choice, auto, choice_of
from snnconv.spiking.operators.placement import place_operators
from snnconv.spiking.operators.signals import departures

log = logging.getLogger(__name__)
CALIBRATION = 1000  # number of calibration samples, as in conf/data/
OPTIONS = ("calibration", "method", "simulation")  # of `convert` itself
REQUIRED = inspect.Parameter.empty


@functools.cache
def _import_methods() -> None:
    """Import every module of `snnconv.conversion.methods`; each registers its methods."""
    package = importlib.import_module("snnconv.conversion.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def find(name: str) -> Method:
    """The method called `name`; ValueError with the nearest names if there is none."""
    _import_methods()
    if name not in METHODS:
        raise ValueError(f"method={name!r}: no such method; {nearest(name, METHODS)}")
    return METHODS[name]


def methods(model: nn.Module | None = None, example: Any = None) -> list[str]:
    """The names of all conversion methods, or of those that can convert `model`.

    A method can convert a network if it can convert every layer, and if the activations are of the kind that the method requires:
    ReLU (modules or calls), or activations with a trained threshold such as QCFS.  With `example`, a batch of inputs [N, …] or a
    loader, the network is captured as `convert` does with calibration inputs.  Without `example`, calls of functions such as
    `F.max_pool2d` cannot be captured; for networks with such calls the list is empty, and a warning is logged.

    >>> from torch import nn
    >>> from snnconv.conversion.registry import methods
    >>> "mse" in methods(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    True
    """
    _import_methods()
    if model is None:
        return sorted(METHODS)
    if example is not None:
        batches = Loader(example, device_of(model)).first(1)
        model = entered(model, batches, _kinds_in(model))[0]
    names = fitting(model, auto)
    if not names and example is None:
        log.warning("methods: none can convert %s as it is; with a batch of inputs, methods(model, inputs) also considers calls "
                    "of functions", type(model).__name__)  # fmt: skip
    return names


def _kinds_in(model: nn.Module) -> tuple[type, ...]:
    """ReLU, and the kinds of activations with thresholds that `model` has."""
    return (nn.ReLU, *{type(module) for module in model.modules() if is_activation(module)})


def fitting(model: nn.Module, operators: Choice) -> list[str]:
    """The names of the methods that can convert `model`, with `operators` for other non-linear layers."""
    _import_methods()
    try:
        model = with_relu_modules(model)
    except ValueError:  # it cannot be traced, or has no activation
        return []
    fits = {kinds: _fits(model, kinds, operators) for kinds in {m.takes for m in METHODS.values() if m.takes}}
    return sorted(name for name, method in METHODS.items() if method.takes and fits[method.takes])


def _fits(model: nn.Module, kinds: tuple[type, ...], operators: Choice) -> bool:
    """Whether a method that converts activations of `kinds` can convert `model`."""
    try:
        return not obstacles(place_operators(model, kinds, operators), kinds)
    except ValueError:
        return False


def convert(
    model: nn.Module,
    calibration: Any = None,
    *,
    method: str = "auto",
    simulation: Any = None,
    **settings: Any,
) -> SpikingModel:
    """Convert `model` to a spiking network.

    `model` is any network: with ReLUs (modules or calls), with QCFS (`prepare`), or with other non-linear layers, which become
    operators (conf/operators/).  `model` and its mode (train or eval) are not changed; the result is a copy in eval mode on the
    same device.

    `calibration` holds the inputs from which thresholds are computed: an iterable of (inputs [N, …], targets) or of inputs, for
    example a DataLoader; a tensor is one batch.  Values are not rescaled, so normalize them as in training.  The first 1000
    samples are used.  Methods for trained thresholds need no calibration inputs.

    `method` is one of `methods()`.  "auto" selects `qcfs` if every activation has a trained threshold, and `potential_init` if some
    have one.  Without trained thresholds it selects `mse` (θ of least squared error) if all weights would then receive the image or
    spikes, and `differential` (signed neurons) if not, as in transformers, ConvNeXt and MobileNet (linear bottlenecks).
    Of the rules for thresholds, `mse` is the most accurate at T ≤ 8 on ResNet-20 and ResNet-56, and within 1.5 points of the best
    one at T = 16 to 64; `temporal_bias` is more accurate at every T and is calibrated for each T
    (experiments/leaderboard_cifar10_resnet20).

    `settings` have the names and defaults of the method's yaml (conf/method/).  Settings of a rule or a neuron are passed directly
    (`percent=99.99`), and `rule` may be a name: "max", "percentile", "mse", "kl", "normal".  `operators` may be a name of
    conf/operators/.  `simulation` is a mapping with settings of conf/simulate/, or a `Simulation`.

    Returns a `SpikingModel`: `snn(inputs, timesteps=T)` gives logits [T, N, K], one for each step.

    ValueError for an unknown method or setting (with the nearest names), a layer that cannot be converted (with its path and a
    remedy), or missing calibration inputs.

    >>> import torch
    >>> from torch import nn
    >>> from snnconv.conversion.registry import convert
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> snn = convert(model, torch.rand(100, 4))
    >>> snn(torch.rand(5, 4), timesteps=8).shape
    torch.Size([8, 5, 3])
    >>> snn = convert(model, torch.rand(100, 4), method="percentile", percent=99.0)
    >>> convert(model, torch.rand(100, 4), method="percentil")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: method='percentil': no such method; did you mean percentile...
    """
    if isinstance(model, SpikingModel):
        raise ValueError("model: this is already a spiking network; pass the ANN")
    inputs = Loader([] if calibration is None else calibration, device_of(model))
    batches = inputs.first(CALIBRATION)
    network = entered(model, batches, _kinds_in(model))[0] if batches else with_relu_modules(model)
    operators = choice_of(settings.get("operators", auto))
    chosen = find(automatic(network, operators) if method == "auto" else method)
    network = _with_thresholds(network, batches)
    given = bound_settings(chosen, settings)
    if "data" in given:  # it trains
        given["data"] = given["data"] or inputs
    if "base" in given and not callable(given["base"]):
        base = find(given["base"] or automatic(network, operators))
        given["base"] = functools.partial(base, **bound_settings(base, {}))
    try:
        snn = chosen(network, batches, **given, simulate=simulation)
    except ValueError as error:
        if batches or is_captured(network):
            raise
        raise ValueError(
            f"{error}\n  no inputs were given: pass calibration=…, with which calls of functions can be converted as well"
        ) from error
    if not batches and not is_captured(network):
        require_equal_without_inputs(model, network, _kinds_in(model))
    return snn


def automatic(network: nn.Module, operators: Choice = auto) -> str:
    """The name of the method that `method="auto"` selects for `network`."""
    trained = [is_activation(m) for m in network.modules() if is_activation(m) or isinstance(m, nn.ReLU)]
    if any(trained):
        return "qcfs" if all(trained) else "potential_init"
    return "mse" if trained and not _has_analog_currents(network, operators) else "differential"


def _has_analog_currents(network: nn.Module, operators: Choice) -> bool:
    """Whether weights receive floating-point values if the ReLUs of `network` become integrate-and-fire neurons."""
    try:
        placed = place_operators(network, (nn.ReLU,), operators)
        spiking = to_spiking(placed, nn.ReLU, lambda path, site: IntegrateFire(1.0))
        return bool(departures(spiking)["analog_currents"])
    except ValueError:  # an obstacle, which the conversion reports
        return False


def with_relu_modules(model: nn.Module) -> nn.Module:
    """`model` if it is captured or its activations have thresholds, else a copy in which every ReLU is a separate module."""
    if is_captured(model) or any(is_activation(module) for module in model.modules()):
        return model
    return replace_relus(model, nn.ReLU)


def _with_thresholds(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> nn.Module:
    """`network`, or a copy with calibrated thresholds if some are unknown (NaN); ValueError without calibration inputs."""
    sites: dict[str, Any] = {path: module for path, module in network.named_modules() if is_activation(module)}
    unknown = [path for path, site in sites.items() if bool(site.threshold.isnan().any())]
    if not unknown:
        return network
    if not batches:
        raise ValueError(f"{unknown[0]}: its threshold is not set yet; train the network first, or pass calibration=")
    network = copy.deepcopy(network)
    calibrate(network, batches, rule=least_squares)
    return network


def bound_settings(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of `method` except `simulate`: the value in `given`, else the default.

    Names that are not settings of the method are passed to a setting that is a function (`rule`, `neuron`, `recipe`).  ValueError
    for an unknown name, and for a missing setting without default.
    """
    defaults = {name: default for name, default in method.settings().items() if name != "simulate"}
    values = {**defaults, **{name: value for name, value in given.items() if name in defaults}}
    if isinstance(values.get("rule"), str):
        values["rule"] = _rule(values["rule"])
    if "operators" in values:
        values["operators"] = choice_of(values["operators"])
    options = {name: _options(value) for name, value in values.items() if callable(value) and value is not REQUIRED}
    for name, value in given.items():
        if name in defaults:
            continue
        part = next((part for part, names in options.items() if name in names), None)
        if part is None:
            names = [*defaults, *(name for names in options.values() for name in names)]
            close = nearest(name, [*names, *OPTIONS])
            raise ValueError(f"method={method.name}: has no setting {name!r}; {close}")
        values[part] = functools.partial(values[part], **{name: value})
    if missing := [name for name, value in values.items() if value is REQUIRED]:
        raise ValueError(f"method={method.name}: needs {' and '.join(f'{name}=…' for name in missing)}")
    return values


def _rule(name: str) -> Callable:
    """The threshold rule called `name`; ValueError listing all names if there is none."""
    if name not in RULES:
        raise ValueError(f"rule={name!r}: must be one of {', '.join(RULES)}, or a function of (samples, levels)")
    return RULES[name]


def _options(function: Callable) -> list[str]:
    """The names of the parameters of `function` that have a default or are bound to a value."""
    parameters = inspect.signature(function).parameters.values()
    bound = function.keywords if isinstance(function, functools.partial) else {}
    return list(dict.fromkeys([*(p.name for p in parameters if p.default is not REQUIRED), *bound]))
