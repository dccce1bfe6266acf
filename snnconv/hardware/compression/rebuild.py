"""Description of the layers that compression changed, and reconstruction of the network from it."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from snnconv.hardware.compression.size import two_of_four
from snnconv.nn.graph.kinds import NORMS, WEIGHTED
from snnconv.nn.graph.rewrite import set_submodule

SHAPES = {
    nn.Conv2d: (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    ),
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm1d: ("num_features",),
    nn.BatchNorm2d: ("num_features",),
}
KINDS = {kind.__name__: kind for kind in SHAPES}


def changes(original: nn.Module, network: nn.Module) -> dict[str, dict[str, Any]]:
    """Differences of `network` from `original`, by path: layers with other shapes, and layers that replace another layer.

    Plain values, for `ann.json`.  ValueError for a kind of layer that is not supported.
    """
    before, changed = {path: _described(module) for path, module in original.named_modules()}, {}
    for path, module in network.named_modules():
        if isinstance(module, (*WEIGHTED, *NORMS)) and before.get(path) != (described := _described(module)):
            if described is None:
                raise ValueError(f"{path} ({type(module).__name__}): a compressed layer of this kind cannot be stored")
            changed[path] = described
    return changed


def rebuilt(model: nn.Module, layers: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """`model` with `layers` replaced as described by `changes`, with new weights; ValueError for a wrong description."""
    for path, described in layers.items():
        settings = {**described}
        kind: Any = KINDS.get(str(settings.pop("kind", None)))
        if kind is None or set(settings) - {*SHAPES[kind], "bias"}:
            raise ValueError(f"{path}: {dict(described)} is not a description of {' or '.join(KINDS)}")
        settings = {
            name: tuple(value) if isinstance(value, list | tuple) else value for name, value in settings.items()
        }
        parent = path.rpartition(".")[0]
        if isinstance(_submodule(model, parent), WEIGHTED):  # two layers replace one
            set_submodule(model, parent, nn.Sequential())
        set_submodule(model, path, kind(**settings))
    return model


def _submodule(network: nn.Module, path: str) -> nn.Module | None:
    try:
        return network.get_submodule(path)
    except AttributeError:
        return None


def _described(module: nn.Module) -> dict[str, Any] | None:
    kind = next((kind for kind in SHAPES if type(module) is kind), None)
    if kind is None:
        return None
    settings: dict[str, Any] = {name: getattr(module, name) for name in SHAPES[kind]}
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    bias = {} if kind in NORMS else {"bias": module.bias is not None}
    return {"kind": kind.__name__, **settings, **bias}


def undone(before: nn.Module, after: nn.Module) -> list[str]:
    """Paths of the weight layers with 2:4 sparsity in `before` that are missing or not 2:4 sparse in `after`."""
    still_sparse = {
        path for path, module in after.named_modules() if isinstance(module, WEIGHTED) and two_of_four(module.weight)
    }
    sparse = (
        path for path, module in before.named_modules() if isinstance(module, WEIGHTED) and two_of_four(module.weight)
    )
    return [path for path in sparse if path not in still_sparse]


def layers_of(model: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A stored configuration of a model, separated into the original configuration and the `layers` that compression changed."""
    plain: dict[str, Any] = dict(model)
    layers: dict[str, Any] = {}
    while plain.get("_target_") == f"{__name__}.rebuilt":
        plain, layers = dict(plain["model"]), {**plain["layers"], **layers}
    return plain, layers
