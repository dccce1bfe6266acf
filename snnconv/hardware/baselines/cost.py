"""Size of a quantized network in bytes, and its energy by the tables and rules that are used for the spiking network."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from snnconv.analysis.costs import Costs
from snnconv.analysis.fan_out import Target, fan_out
from snnconv.hardware.baselines.ptq import Quantized, with_modules
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.kinds import NORMS, WEIGHTED
from snnconv.nn.graph.rewrite import replace_modules
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

log = logging.getLogger(__name__)
WORD = 4  # bytes of a scale, a zero point, a bias, and a value that stays float
RULE = (
    "As the quantized ANN in energy.py: a MAC with an activation of b bits is b shifted accumulates, never more than a full MAC; "
    "the first layer, which receives the image, and a weight layer that directly follows another one need full MACs.  If a table "
    "counts memory, weights and activations have their own bits, but at most those of the table.  Computing ranges at run time "
    "(dynamic) is not counted."
)


def size(ann: nn.Module, quantized: Quantized, image_shape: Sequence[int]) -> dict[str, float]:
    """Bytes of the quantized network and of its float32 original, both with folded batch norms.

    Weights have their own bits.  Four bytes are counted for each scale (and zero point, if affine) of a layer or channel and of a
    stored activation range, for each bias, and for each factor and shift of a batch norm that cannot be folded.
    """
    settings, folded = quantized.settings, _folded(ann, image_shape)
    layers: list[Any] = [module for module in folded.modules() if isinstance(module, WEIGHTED)]
    norms = sum(2 * module.num_features for module in folded.modules() if isinstance(module, NORMS))
    words = norms + sum(layer.bias.numel() for layer in layers if layer.bias is not None)
    weights = sum(layer.weight.numel() for layer in layers)
    scales = sum(len(layer.weight) if settings.per_channel else 1 for layer in layers)
    scales *= 1 if settings.of_weights().symmetric else 2
    ranges = quantized.ranges * (1 if settings.of_activations().symmetric else 2)
    return {
        "size_bytes": weights * settings.weight_bits / 8 + WORD * (words + scales + ranges),
        "float_bytes": float(WORD * (weights + words)),
    }


def targets(ann: nn.Module, image_shape: Sequence[int]) -> list[Target]:
    """Operations for one image, layer by layer; ValueError if they cannot be counted (`fan_out.fan_out`)."""
    counted = replace_modules(_folded(ann, image_shape), (QCFS, nn.ReLU), lambda _: OverTime(IntegrateFire(1.0)))
    return fan_out(counted.cpu(), image_shape)[0]


def _folded(ann: nn.Module, image_shape: Sequence[int]) -> nn.Module:
    """`ann` with folded batch norms, and with every activation as a module."""
    return fold_batchnorm(with_modules(ann, [torch.rand(2, *image_shape, device=next(ann.parameters()).device)]))


def energy(
    ann: nn.Module, quantized: Quantized, image_shape: Sequence[int], tables: Mapping[str, Costs]
) -> dict[str, dict[str, float] | None]:
    """Energy in pJ for one image, by table: "energy" of the quantized network, "ann_energy" of the original, or None."""
    try:
        counted = targets(ann, image_shape)
    except ValueError as error:
        log.warning("No energy: %s", error)
        return {"energy": None, "ann_energy": None}
    settings = quantized.settings
    narrow = {
        name: replace(costs, weight_bits=min(settings.weight_bits, costs.weight_bits)) for name, costs in tables.items()
    }
    return {
        "energy": {
            name: sum(costs.of_ann(target, settings.activation_bits) for target in counted)
            for name, costs in narrow.items()
        },
        "ann_energy": {name: sum(costs.of_ann(target) for target in counted) for name, costs in tables.items()},
    }
