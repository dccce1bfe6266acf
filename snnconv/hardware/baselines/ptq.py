"""Post-training quantization: activation ranges from calibration (static), or from each image at run time (dynamic).

Quantized are the image, the output of every activation, and every other input of weights (after average pooling).  Sums before an
activation (of weight layers, biases, shortcuts) keep full width, as in fused integer kernels.  The arithmetic is simulated:
float32 holds integers times their scale.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from snnconv.data.batches import first_images, in_batches
from snnconv.data.splits import Splits
from snnconv.hardware.baselines.observers import (
    OBSERVERS,
    WEIGHT_OBSERVERS,
    Integers,
    PerImage,
    activation_observer,
    settled,
    weight_observer,
)
from snnconv.nn.activations.clipped_relu import ClippedReLU
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.kinds import WEIGHTED, trained_threshold
from snnconv.nn.graph.names import attributes, free_name
from snnconv.nn.graph.relus import replace_relus
from snnconv.nn.graph.rewrite import replace_modules, set_submodule
from snnconv.nn.graph.trace import trace
from snnconv.spiking.tasks import CLASSIFY, Task

MOST_BITS = 16
BATCH = 50  # images in one update of a moving average
KEEPING_MODULES = (
    nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ZeroPad2d,
    nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
KEEPING_CALLS = (
    torch.flatten, torch.reshape, F.dropout, F.max_pool2d,
    "flatten", "view", "reshape", "contiguous", "permute", "transpose",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a quantization; ValueError for values out of range."""

    weight_bits: int = 8
    activation_bits: int = 8
    image_bits: int = 8
    weights: str = "symmetric"  # or affine
    activations: str = "affine"  # or symmetric, which uses half of its integers for negative values
    per_channel: bool = True  # one scale for each output channel of the weights
    weight_observer: str = "mse"  # min_max | mse
    observer: str = "min_max"  # of activations: min_max | moving_average | percentile | mse | kl
    momentum: float = 0.9  # of moving_average
    percent: float = 99.9  # of percentile
    per_image: int = (
        256  # values of each image, at each observed place, from which percentile, mse and kl compute a range
    )
    from_theta: bool = (
        True  # an activation with a trained θ uses it as its range, with 2^bits − 1 levels, without an observer
    )
    own_levels: bool = False  # with from_theta: keep the levels of training

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits", "image_bits"):
            bits = getattr(self, name)
            if type(bits) is not int or not 2 <= bits <= MOST_BITS:
                raise ValueError(f"baseline.{name}={bits!r}: must be an integer number of bits from 2 to {MOST_BITS}")
        schemes = ("symmetric", "affine")
        options = {
            "weights": schemes,
            "activations": schemes,
            "observer": OBSERVERS,
            "weight_observer": WEIGHT_OBSERVERS,
        }
        for name, allowed in options.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"baseline.{name}={getattr(self, name)!r}: must be {', '.join(allowed[:-1])} or {allowed[-1]}"
                )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"baseline.momentum={self.momentum!r}: must be at least 0 and below 1")
        if not 0 < self.percent <= 100:
            raise ValueError(f"baseline.percent={self.percent!r}: must be above 0 and at most 100")
        if type(self.per_image) is not int or self.per_image < 1:
            raise ValueError(f"baseline.per_image={self.per_image!r}: must be an integer of at least 1")

    def of_weights(self) -> Integers:
        """The integers of weights."""
        return Integers(self.weight_bits, self.weights == "symmetric")

    def of_activations(self, image: bool = False) -> Integers:
        """The integers of activations, or of the image."""
        return Integers(self.image_bits if image else self.activation_bits, self.activations == "symmetric")


@dataclass
class Quantized:
    """`network` computes with integers times scales, by `settings`; `ranges` is the number of stored activation ranges."""

    network: nn.Module
    settings: Settings
    ranges: int


def dynamic(ann: nn.Module, data: Splits, task: Task = CLASSIFY, **settings: Any) -> Quantized:
    """`ann` with integer weights, and activations quantized with the range of each image.  A trained θ still clips."""
    chosen = Settings(**{**settings, "from_theta": False})
    network, _ = prepared(fold_batchnorm(with_modules(ann, first_images(data.calibration, 2))), chosen, PerImage)
    quantize_weights(network, chosen)
    return Quantized(network.eval(), chosen, 0)


def static(ann: nn.Module, data: Splits, task: Task = CLASSIFY, **settings: Any) -> Quantized:
    """`ann` with integer weights and activations, with ranges from θ or from calibration images."""
    network = fold_batchnorm(with_modules(ann, first_images(data.calibration, 2)))
    return calibrated(network, data.calibration, Settings(**settings))


def with_modules(ann: nn.Module, images: Sequence[Tensor]) -> nn.Module:
    """`ann` if its activations have a trained θ, else a copy in which every ReLU is a module.

    A forward pass that cannot be traced is captured with the first of `images`.
    """
    if any(isinstance(module, QCFS) for module in ann.modules()):
        return ann
    return replace_relus(ann, nn.ReLU, images[0] if images else None)


def calibrated(network: nn.Module, batches: Iterable[tuple[Tensor, Any]], settings: Settings) -> Quantized:
    """A quantized copy of `network`, with ranges from all `batches`.  ValueError without images."""
    options: Any = {"momentum": settings.momentum, "percent": settings.percent, "per_image": settings.per_image}
    make: Any = partial(activation_observer, settings.observer, **options)
    network, sites = prepared(network, settings, make)
    images = in_batches(batches, BATCH)
    if not images:
        raise ValueError("static quantization needs calibration images for its ranges, and there are none; set data.calibration "
                         "to 100 or more, or choose baseline=ptq_dynamic")  # fmt: skip
    network.eval()
    with torch.no_grad():
        for batch, _ in images:
            network.to(batch.device)(batch)
    for path, place in sites.items():
        try:
            set_submodule(network, path, settled(network.get_submodule(path)))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    quantize_weights(network, settings)
    thetas = sum(isinstance(module, QCFS) for module in network.modules()) if settings.from_theta else 0
    return Quantized(network, settings, len(sites) + thetas)


def prepared(
    ann: nn.Module, settings: Settings, make: Callable[[Integers], nn.Module]
) -> tuple[fx.GraphModule, dict[str, str]]:
    """A copy of `ann` with a module `make(integers)` wherever values are quantized, and the quantized layer by its path.

    An activation with a trained θ has as many levels as there are integers (`from_theta`), or clips at θ.
    """

    def requantized(activation: Any) -> nn.Module:
        most, levels, theta = settings.of_activations().high, activation.levels, trained_threshold(activation)
        if not isinstance(theta, float):
            raise ValueError(f"activation={type(activation).__name__}: has one threshold per channel, but a quantized ANN has one "
                             "scale per layer of activations; train with activation=qcfs")  # fmt: skip
        if settings.own_levels and levels > most:
            raise ValueError(f"baseline.activation_bits={settings.activation_bits}: has only {most} levels above 0, but this "
                             f"network was trained with {levels}; use more bits, or own_levels=false")  # fmt: skip
        return (
            QCFS(levels if settings.own_levels else most, theta) if settings.from_theta else ClippedReLU(levels, theta)
        )

    trained = any(isinstance(module, QCFS) for module in ann.modules())
    network = replace_modules(ann, QCFS, requantized) if trained else copy.deepcopy(ann)
    _require_quantizable(network)
    modules, graph = dict(network.named_modules()), trace(network.eval())
    places: dict[fx.Node, Integers] = {}
    for node in graph.nodes:
        module = modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(module, QCFS | nn.ReLU):
            places[node] = settings.of_activations()
        elif isinstance(module, WEIGHTED):
            source = _source(node.args[0], modules)
            places.setdefault(source, settings.of_activations(image=source.op == "placeholder"))
    quantized = fx.GraphModule(network, graph)
    sites = {}
    for node, integers in places.items():
        if settings.from_theta and node.op == "call_module" and isinstance(modules[str(node.target)], QCFS):
            continue  # its levels are already integers
        place = str(node.target if node.op == "call_module" else node.name)
        path = free_name(f"{place.replace('.', '_')}_values", attributes(quantized))  # called more than once
        quantized.add_submodule(path, make(integers))
        with graph.inserting_after(node):
            new = graph.call_module(path, (node,))
        node.replace_all_uses_with(new)
        new.args = (node,)
        sites[path] = place
    quantized.recompile()
    return quantized, sites


def _source(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    """The node that computed the values of `node`; operations that only move or select values are skipped."""
    module = modules[str(node.target)] if node.op == "call_module" else None
    keeps = isinstance(module, KEEPING_MODULES) or (node.op.startswith("call_") and node.target in KEEPING_CALLS)
    return _source(node.all_input_nodes[0], modules) if keeps else node


def _require_quantizable(network: nn.Module) -> None:
    """Raise a ValueError naming the first layer whose weights would stay float."""
    for path, module in network.named_modules():
        if not isinstance(module, WEIGHTED) and any(p.dim() > 1 for p in module.parameters(recurse=False)):
            raise ValueError(f"{path} ({type(module).__name__}): its weights cannot be quantized; supported are "
                             f"{', '.join(kind.__name__ for kind in WEIGHTED)}")  # fmt: skip


def quantize_weights(network: nn.Module, settings: Settings) -> None:
    """Quantize every weight layer of `network`, with ranges of the present weights and straight-through gradients."""
    for layer in [module for module in network.modules() if isinstance(module, WEIGHTED)]:
        observer = weight_observer(settings.weight_observer, settings.of_weights(), settings.per_channel)
        observer(layer.weight.detach())
        parametrize.register_parametrization(layer, "weight", settled(observer))
