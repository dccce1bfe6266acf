"""Trained weights of torchvision, by torchvision's name, with parameters renamed for our networks."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

PREFIX = "torchvision:"
MODELS = {  # architectures of snnconv, by torchvision's name of the weights
    "ResNet18_Weights": "resnet18_imagenet",
    "ResNet34_Weights": "resnet34_imagenet",
    **{f"VGG{depth}_BN_Weights": f"vgg{depth}" for depth in (11, 13, 16, 19)},
}
RENAMED: tuple[tuple[str, Any], ...] = (
    (r"^layer(\d)\.", lambda match: f"stages.{int(match[1]) - 1}."),
    (r"\.downsample\.", ".shortcut."),
    (r"^classifier\.(\d)\.", lambda match: f"classifier.{int(match[1]) + 1}."),  # ours starts with nn.Flatten
)


def torchvision_weights(source: str, network: nn.Module) -> dict[str, Tensor]:
    """The state dict of `source`, "torchvision:ResNet34_Weights.IMAGENET1K_V1", with parameters renamed for `network` if known.

    torchvision downloads weights that are not in its cache.  ValueError for an unknown name or a damaged file, FileNotFoundError
    if the download fails.
    """
    from torchvision.models import get_weight  # imported here because it takes a second

    name = source.removeprefix(PREFIX)
    try:
        entry = get_weight(name)
    except (ValueError, KeyError) as error:
        fitting = ", ".join(f"{kind}.IMAGENET1K_V1" for kind in MODELS)
        raise ValueError(
            f"{source}: torchvision has no weights of this name; weights for models of snnconv: {fitting}"
        ) from error
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    try:
        weights = entry.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # a failed download and a damaged file can raise almost anything
        if file.is_file():
            raise ValueError(f"{file}: damaged ({type(error).__name__}); remove it to download it again") from error
        raise FileNotFoundError(f"{source}: the download failed ({error}); download {entry.url} on a machine with internet access "
                                f"and copy it to {file}") from error  # fmt: skip
    kind = name.partition(".")[0]
    if kind.startswith("VGG") and not any(isinstance(module, nn.MaxPool2d) for module in network.modules()):
        log.warning("%s were trained with max pooling, but this network has average pooling; "
                    "its accuracy is low until it is fine-tuned (fit=finetune)", source)  # fmt: skip
    if (
        kind not in MODELS or weights.keys() <= network.state_dict().keys()
    ):  # the latter: torchvision's own, by model=custom
        return weights
    for pattern, new in RENAMED:
        weights = {re.sub(pattern, new, name): tensor for name, tensor in weights.items()}
    return weights


def advice(source: str) -> str:
    """Advice that names the network for which `source` was trained."""
    kind = source.removeprefix(PREFIX).partition(".")[0]
    if kind in MODELS:
        return f"they fit model={MODELS[kind]} with 1000 classes and images of [3, 224, 224], as in data=imagenet"
    return (f"no model of snnconv has this architecture (available: {', '.join(MODELS.values())}); "
            "use torchvision's network: model=torchvision")  # fmt: skip
