"""Initial weights from a file, a run folder or torchvision, renamed to the names of the network."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from snnconv.runtime.checkpoint import compare, take_shapes
from snnconv.runtime.published_names import translated
from snnconv.runtime.torchvision_weights import PREFIX, advice, torchvision_weights
from snnconv.runtime.weight_files import read_weights

WRAPPERS = re.compile(r"(^|\.)(module|_orig_mod)(?=\.)")  # what DataParallel and torch.compile put into names
THRESHOLDS = (
    "theta",
    "thresh",
    "up",
)  # θ of an activation in the repositories of QCFS (Bu et al., 2022) and its successors
Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def filled(network: Network, source: str | Path | None) -> Network:
    """`network` with the weights of `source`, if there is one; ValueError listing what differs if they do not fit.

    `source` is a file, a run folder, or weights that torchvision has: "torchvision:ResNet34_Weights.IMAGENET1K_V1".
    Weights of a ReLU network have no thresholds; these are set to NaN (unknown), and `calibration` computes them.
    """
    if source is None:
        return network
    from_torchvision = str(source).startswith(PREFIX)
    weights = (
        torchvision_weights(str(source), network)
        if from_torchvision
        else _renamed(read_weights(source), network.state_dict())
    )
    take_shapes(network, weights)
    expected = network.state_dict()
    sites = {path: module for path, module in network.named_modules() if hasattr(module, "set_threshold")}
    of_sites = {f"{path}.{name}" for path, module in sites.items() for name in module.state_dict()}
    plain = not of_sites & weights.keys()
    needed = {
        name: tensor
        for name, tensor in expected.items()
        if name in weights or not (name.endswith("num_batches_tracked") or (plain and name in of_sites))
    }
    differences = compare(needed, weights)
    if differences:
        remedy = [advice(str(source))] if from_torchvision else []
        raise ValueError("\n  ".join([f"{source} does not fit {type(network).__name__}:", *differences, *remedy]))
    _require_usable(weights, source)
    network.load_state_dict(weights, strict=False)
    return forget_thresholds(network) if plain else network


@torch.no_grad()
def forget_thresholds(network: Network) -> Network:
    """`network` with its thresholds set to NaN (unknown), so that calibration computes them."""
    for module in network.modules():
        if hasattr(module, "set_threshold"):
            for parameter in module.parameters():
                parameter.fill_(torch.nan)
    return network


def _renamed(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` renamed to the names of `expected`, if they differ by wrappers, a common prefix, the name of θ, or a repository."""
    renamed = {}
    variants = [names for variant in _variants(weights) for names in (variant, translated(variant)) if names]
    for name, tensor in max(variants, key=lambda names: len(names.keys() & expected.keys())).items():
        site, _, word = name.rpartition(".")
        theta = expected.get(f"{site}.theta")
        if word in THRESHOLDS and name not in expected and theta is not None and theta.numel() == tensor.numel():
            name, tensor = f"{site}.theta", tensor.reshape(theta.shape)
        p = expected.get(f"{site}.p")  # of CS-QCFS
        if word in THRESHOLDS and name not in expected and p is not None and tensor.numel() in (1, p.numel()):
            theta = tensor.flatten()
            name, tensor = (
                f"{site}.p",
                (theta + (-(-theta).expm1()).log()).expand(p.numel()).reshape(p.shape),
            )  # softplus(p) = θ
        renamed[name] = tensor
    return renamed


def _variants(weights: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """`weights` unchanged, and with names without wrappers and without common prefixes."""
    bare = {WRAPPERS.sub("", name).lstrip("."): tensor for name, tensor in weights.items()}
    for names in (weights, bare) if len(bare) == len(weights) else (weights,):
        yield names
        while len({name.partition(".")[0] for name in names}) == 1 and all("." in name for name in names):
            names = {name.partition(".")[2]: tensor for name, tensor in names.items()}
            yield names


def _require_usable(weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise a ValueError naming a tensor with values that no network can use."""
    for name, tensor in weights.items():
        if tensor.is_meta:  # a shape without values
            continue
        if tensor.is_floating_point() and not tensor.isfinite().all() and not _is_threshold(name):
            raise ValueError(
                f"{source}: {name} contains NaN or infinite values, probably because the training diverged"
            )
        if name.endswith("running_var") and (tensor < 0).any():
            raise ValueError(f"{source}: {name} contains negative variances")


def _is_threshold(name: str) -> bool:
    """Whether NaN is permitted here: a θ that calibration will compute."""
    return name.rpartition(".")[2] in ("theta", "p")
