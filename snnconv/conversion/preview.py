"""`check` for Python programs: the result of conversion for each layer of a network, without converting it."""

import contextlib
import functools
from dataclasses import replace
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from snnconv.conversion import checks
from snnconv.conversion.check_result import Check
from snnconv.conversion.demands import simulation
from snnconv.conversion.entrance import entered
from snnconv.conversion.registry import CALIBRATION, automatic, bound_settings, find
from snnconv.data.loaders import Loader, device_of
from snnconv.nn.graph.kinds import is_activation
from snnconv.spiking.operators.choice import auto, choice_of


def check(model: nn.Module, example: Any, *, method: str = "auto", verbose: bool = True, **settings: Any) -> Check:
    """Print the result of conversion for every layer of `model`, and every obstacle with its remedy.

    `example` is a batch of inputs [N, …], or an iterable of (inputs, targets) whose first batch is used.  `method` and `settings`
    are those of `convert`.  With `verbose=False` nothing is printed; `print(result)` prints it later.  The model is not changed.

    Returns a `Check`: `layers`, `obstacles` (empty if the model can be converted), `warnings`; `require()` raises a ValueError that
    lists the obstacles.

    >>> import torch
    >>> from torch import nn
    >>> import snnconv
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> snnconv.check(model, torch.rand(16, 4), verbose=False).obstacles
    []
    """
    loader = Loader(example, device_of(model))
    batches = loader.first(32)
    if not batches:
        raise ValueError("check needs one batch of inputs, but example is empty")
    if method == "auto":
        kinds: tuple[type, ...] = (nn.ReLU, *{type(module) for module in model.modules() if is_activation(module)})
        with contextlib.suppress(ValueError):  # an obstacle, which the check lists
            model = entered(model, batches, kinds)[0]
    chosen = find(automatic(model, choice_of(settings.get("operators", auto))) if method == "auto" else method)
    convert = functools.partial(chosen, **bound_settings(chosen, settings))
    count = (
        None if isinstance(example, Tensor) else min(loader.count, CALIBRATION)
    )  # an example is not calibration data
    result = checks.check(model, convert, batches, calibration=count, demands=[simulation(2)])
    result = replace(result, method=chosen.name)
    if verbose:
        result.show(Console())
    return result
