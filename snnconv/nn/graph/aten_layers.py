"""Rules for ATen calls that become layers: weights, norms, pooling, dropout, activations."""

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F

from snnconv.nn.graph.aten_calls import Rule, layer_path, path_beside
from snnconv.nn.graph.batch_axis import shape
from snnconv.nn.graph.calls import bound, operation
from snnconv.nn.graph.sites import MatMul

ACTIVE_DROPOUT = "dropout is active in evaluation; use F.dropout(x, p, training=self.training), or use nn.Dropout"


def layer(kind: type[nn.Module], *names: str) -> Rule:
    """Rule for a layer of `kind` with weights; `names` are its arguments after weight and bias.

    With weights that depend on the image the call becomes `MatMul`."""

    def lift(lifting: Any, node: fx.Node) -> Any:
        given = bound(node)
        source, weight = given["input"], given["weight"]
        if lifting.is_signal(weight):
            settings = {name: given[name] for name in names}
            product = MatMul(_WithSettings(getattr(F, operation(node)), settings))
            if given["bias"] is not None:
                raise ValueError(f"{lifting.where(node)}: its weights depend on the image; expected constant weights")
            return lifting.module(product, path_beside(lifting, node), node, source, weight)
        if not lifting.is_signal(source):
            raise ValueError(f"{lifting.where(node)}: its input is a constant and its weights depend on the image")
        tensors: dict[str, Any] = {
            n: lifting.values[given[n]] if given[n] is not None else None for n in ("weight", "bias")
        }
        layer = _empty_layer(kind, tensors["weight"], {name: given[name] for name in names})
        key = (kind, id(tensors["weight"]), id(tensors["bias"]), str(sorted((n, str(given[n])) for n in names)))
        layer = lifting.shared(key, layer, tensors)
        return lifting.module(layer, layer_path(lifting, node, tensors["weight"]), node, source)

    return lift


class _WithSettings:
    """A function of two tensors with fixed other arguments."""

    def __init__(self, function: Callable[..., Tensor], settings: dict[str, Any]) -> None:
        self.function, self.settings = function, settings

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return self.function(a, b, **self.settings)


def _empty_layer(kind: Any, weight: Tensor, settings: dict[str, Any]) -> nn.Module:
    """A layer of `kind` with the shape of `weight`, without data (device "meta")."""
    if kind is nn.Linear:
        return nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    groups, spatial = settings["groups"], tuple(weight.shape[2:])
    settings = {name: tuple(v) if isinstance(v, (list, tuple)) else v for name, v in settings.items()}
    if "output_padding" in settings:
        return kind(weight.shape[0], weight.shape[1] * groups, spatial, device="meta", **settings)
    return kind(weight.shape[1] * groups, weight.shape[0], spatial, device="meta", **settings)


def batch_norm(lifting: Any, node: fx.Node) -> Any:
    """nn.BatchNorm with running statistics, or nn.InstanceNorm."""
    given = bound(node)
    if given.get("training") or given.get("use_input_stats") or given.get("running_mean") is None:
        if operation(node) == "instance_norm":
            return _instance_norm(lifting, node)
        raise ValueError(f"{lifting.where(node)}: uses batch statistics, which differ in every timestep; use "
                         "nn.BatchNorm2d with track_running_stats=True, and call it in eval mode")  # fmt: skip
    names = ("weight", "bias", "running_mean", "running_var")
    tensors: dict[str, Any] = {name: lifting.values[given[name]] if given[name] is not None else None for name in names}
    kind: Any = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape(node))]
    norm = kind(len(tensors["running_mean"]), eps=given["eps"], momentum=given["momentum"], device="meta")
    norm = lifting.shared((kind, *(id(t) for t in tensors.values()), given["eps"]), norm, tensors)
    return lifting.module(norm.eval(), layer_path(lifting, node, tensors["running_mean"]), node, given["input"])


def norm(make: Callable[[dict[str, Any]], nn.Module]) -> Rule:
    """Rule for a norm with weights, which `make` constructs (layer, group and root-mean-square norm)."""

    def lift(lifting: Any, node: fx.Node) -> Any:
        given = bound(node)
        tensors = {
            n: lifting.values[given[n]] if given.get(n) is not None else None for n in ("weight", "bias") if n in given
        }
        norm = lifting.fill(make(given), tensors)
        return lifting.module(norm, layer_path(lifting, node, tensors["weight"]), node, given["input"])

    return lift


def _instance_norm(lifting: Any, node: fx.Node) -> Any:
    given = bound(node)
    kind: Any = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}[len(shape(node))]
    tensors = {n: lifting.values[given[n]] if given[n] is not None else None for n in ("weight", "bias")}
    norm = lifting.fill(kind(int(shape(node)[1]), eps=given["eps"], affine=True), tensors)
    return lifting.module(norm, layer_path(lifting, node, tensors["weight"]), node, given["input"])


def one(make: Callable[[dict[str, Any]], nn.Module], argument: str = "self") -> Rule:
    """Rule for a module of one signal, which `make` constructs from the arguments of the call by name."""

    def lift(lifting: Any, node: fx.Node) -> Any:
        given = bound(node)
        source = next(iter(given.values()))
        return lifting.module(make(given), path_beside(lifting, node), node, source)

    return lift


def dropout(kind: Callable[[int], type[nn.Module]]) -> Rule:
    """Rule for dropout that is inactive in evaluation; `kind` returns the class for the rank of the input."""

    def lift(lifting: Any, node: fx.Node) -> Any:
        given = bound(node)
        if given["train"] and given["p"]:
            raise ValueError(f"{lifting.where(node)}: {ACTIVE_DROPOUT}")
        module = kind(len(shape(node)))(given["p"])  # type: ignore[call-arg]
        return lifting.module(module.eval(), path_beside(lifting, node), node, given["input"])

    return lift


def pool(kind: type[nn.Module], *names: str) -> Rule:
    """Rule for pooling of class `kind` with the arguments `names`."""

    def make(given: dict[str, Any]) -> nn.Module:
        settings: dict[str, Any] = {
            name: given[name] for name in names if name in given and given[name] not in ([], None)
        }
        return kind(**{name: tuple(v) if isinstance(v, (list, tuple)) else v for name, v in settings.items()})

    return one(make)


def pool_with_indices(kind: type[nn.Module], *names: str) -> Rule:
    """Rule for pooling that also returns indices; ValueError if the indices are used."""
    pooling = pool(kind, *names)

    def lift(lifting: Any, node: fx.Node) -> Any:
        if any(user.target is not operator.getitem or (user.args[1] != 0 and user.users) for user in node.users):
            raise ValueError(f"{lifting.where(node)}: uses the indices of max pooling, which is not supported")
        return (pooling(lifting, node), None)

    return lift


def interpolate(mode: str) -> Rule:
    """Rule for interpolation with `mode`, to a size or by factors."""

    def lift(lifting: Any, node: fx.Node) -> Any:
        given = bound(node)
        size: Any = given.get("output_size")
        factors = given.get("scale_factors") or [
            given[n] for n in ("scales", "scales_h", "scales_w", "scales_d") if given.get(n)
        ]
        settings: dict[str, Any] = {"align_corners": True} if given.get("align_corners") else {}
        if size is not None and all(isinstance(s, int) for s in size):
            settings["size"] = tuple(size)
        else:
            settings["scale_factor"] = tuple(factors)
        source = next(iter(given.values()))
        return lifting.function(node, F.interpolate, lifting.values[source], mode=mode, **settings)

    return lift
