"""Networks of torchvision and timm by name, with their ReLUs replaced by an activation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from snnconv.nn.graph.relus import replace_relus
from snnconv.nn.graph.rewrite import set_submodule
from snnconv.runtime.settings import nearest
from snnconv.runtime.weights import filled

SIZED = {"vit": "image_size", "maxvit": "input_size"}  # torchvision's networks for images of one size
WITHOUT = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def torchvision(
    name: str,
    num_classes: int,
    input_shape: Sequence[int],
    activation: Callable[[], nn.Module],
    arguments: Mapping[str, Any] | None = None,
    weights: str | None = None,
) -> nn.Module:
    """torchvision's classification network `name` for these images and classes, called with `arguments`.

    If `weights` have another number of classes, the last layer is new.  Each ReLU is replaced by `activation()`; a network without
    ReLU (vit, swin, convnext, …) is not changed.  ValueError for an unknown name, or weights that do not fit.
    """
    from torchvision import models  # imported here because it takes a second

    names = models.list_models(module=models)
    if name not in names:
        raise ValueError(f"model.name={name!r}: torchvision has no such classification network; {nearest(name, names)}")
    options = {**WITHOUT.get(name, {}), **dict(arguments or {})}
    if size := SIZED.get(name.partition("_")[0]):
        side = input_shape[-1] if size == "image_size" else tuple(input_shape[-2:])
        options = {size: side, **options}
    return _adapted(
        lambda **more: models.get_model(name, **options, **more), num_classes, input_shape, activation, weights
    )


def timm(
    name: str,
    num_classes: int,
    input_shape: Sequence[int],
    activation: Callable[[], nn.Module],
    arguments: Mapping[str, Any] | None = None,
    weights: str | None = None,
    fused_attn: bool = True,
) -> nn.Module:
    """timm's network `name` for these images and classes, called with `arguments` (`pretrained: true` downloads its weights).

    The rest is as for `torchvision`.  With `fused_attn` false, attention is written as matrix products and a softmax, which
    SpikingJelly's recipes need.  ValueError for an unknown name, or where timm is missing (snnconv[timm]).
    """
    try:
        import timm as library
    except ImportError as error:
        raise ValueError("model=timm: timm is not installed: pip install 'snnconv[timm]'") from error
    names = library.list_models()
    if name.partition(".")[0] not in names:
        raise ValueError(f"model.name={name!r}: timm has no such network; {nearest(name, names)}")
    options: dict[str, Any] = {"in_chans": input_shape[0], **dict(arguments or {})}

    def make(**more: Any) -> nn.Module:
        try:
            return library.create_model(name, img_size=tuple(input_shape[-2:]), **options, **more)
        except TypeError:  # a network for images of any size
            return library.create_model(name, **options, **more)

    network = _adapted(make, num_classes, input_shape, activation, weights)
    for module in network.modules():
        if getattr(module, "fused_attn", False):
            setattr(module, "fused_attn", fused_attn)  # noqa: B010  (mypy takes it for a module)
    return network


def _adapted(
    make: Callable[..., nn.Module],
    num_classes: int,
    input_shape: Sequence[int],
    activation: Callable[[], nn.Module],
    weights: str | None,
) -> nn.Module:
    """The network that `make` builds, for our images and classes, with our activations, filled with `weights`."""

    def build(**classes: int) -> nn.Module:
        network = _with_channels(make(**classes), input_shape[0])
        try:
            example = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0))
            return replace_relus(network, activation, example)
        except ValueError:
            if any(isinstance(module, (nn.ReLU, nn.ReLU6, nn.Hardtanh)) for module in network.modules()):
                raise
            return network

    try:
        return filled(build(num_classes=num_classes), weights)
    except ValueError as error:
        try:
            return _with_head(filled(build(), weights), num_classes)
        except ValueError:
            raise error from None


def _with_channels(network: nn.Module, channels: int) -> nn.Module:
    """`network`, its first convolution replaced by a new one if it takes another number of channels."""
    path, first = next((path, m) for path, m in network.named_modules() if isinstance(m, nn.Conv2d))
    if first.in_channels != channels:
        names = ("kernel_size", "stride", "padding", "dilation")
        settings: dict[str, Any] = {name: getattr(first, name) for name in names}
        set_submodule(network, path, nn.Conv2d(channels, first.out_channels, bias=first.bias is not None, **settings))
    return network


def _with_head(network: nn.Module, num_classes: int) -> nn.Module:
    """`network` with a new last layer for `num_classes` classes."""
    path, last = [(path, m) for path, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    if isinstance(last, nn.Linear):
        head: nn.Module = nn.Linear(last.in_features, num_classes, last.bias is not None)
    else:
        head = nn.Conv2d(last.in_channels, num_classes, 1, bias=last.bias is not None)
    set_submodule(network, path, head)
    return network
