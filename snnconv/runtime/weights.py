"""Weights to start from: anyone's file, a run folder of ours, or torchvision's.  Only tensors and plain values are unpickled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from snnconv.runtime.checkpoint import compare
from snnconv.runtime.torchvision_weights import PREFIX, advice, torchvision_weights

NESTED = ("state_dict", "model_state_dict", "model", "net")  # where training scripts keep the weights in a checkpoint
PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
Network = TypeVar("Network", bound=nn.Module)


def read_weights(source: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, in a file of `torch.save` (any other ending), or in a run folder.

    Opens what is nested under "state_dict" and drops the prefix "module.".  FileNotFoundError or ValueError name the file.
    """
    path = Path(source) / "ann.safetensors" if Path(source).is_dir() else Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; weights come from a .pt, .pth or .safetensors file, a run folder, or {PREFIX}…"
        )
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged or foreign file can raise almost anything, and must not run code
        raise ValueError(
            f"{path}: damaged, or more than tensors ({type(error).__name__}); expected what "
            "torch.save(network.state_dict(), path) or safetensors write"
        ) from error
    for key in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        found = (
            f"the keys {', '.join(map(str, content))}"
            if isinstance(content, Mapping)
            else f"a {type(content).__name__}"
        )
        raise ValueError(f"{path}: holds {found}, no state dict (names with a tensor each)")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    return dict(content)


@torch.no_grad()
def filled(network: Network, source: str | Path | None) -> Network:
    """`network` with the weights of `source`, if there is one; ValueError listing what differs if they do not fit.

    `source` is a file, a run folder, or weights that torchvision has: "torchvision:ResNet34_Weights.IMAGENET1K_V1".
    Weights of a ReLU network hold no thresholds: these become NaN, unknown, for `calibration` to find.
    """
    if source is None:
        return network
    from_torchvision = str(source).startswith(PREFIX)
    weights = torchvision_weights(str(source), network) if from_torchvision else read_weights(source)
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
    network.load_state_dict(weights, strict=False)
    if plain:
        for module in sites.values():
            for parameter in module.parameters():
                parameter.fill_(torch.nan)
    return network
