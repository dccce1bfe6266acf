"""The size of a network in memory."""

import torch
from torch import nn

from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.kinds import WEIGHTED
from snnconv.nn.quantization import stored_bits
from snnconv.training.quantized_weights import Weights


@torch.no_grad()
def size(network: nn.Module, weights: Weights | None = None) -> dict[str, int]:
    """Numbers of `parameters` and of `nonzero` parameters, and the `bits` that store them, with folded batch norms.

    Weights have the bits of `weights`; biases, and one scale per output channel of quantized weights, have 32 bits.  If two of
    every four weights along the input channels are 0, the other two are stored, each with two bits for its position.
    """
    total = {"parameters": 0, "nonzero": 0, "bits": 0}
    folded = fold_batchnorm(network)
    layers = {id(module.weight): path for path, module in folded.named_modules() if isinstance(module, WEIGHTED)}
    for parameter in folded.parameters():
        count = parameter.numel()
        total["parameters"] += count
        total["nonzero"] += int(parameter.count_nonzero())
        if id(parameter) not in layers:
            total["bits"] += 32 * count
            continue
        bits = weights.bits_of(layers[id(parameter)]) if weights else None
        width = 32 if bits is None else stored_bits(bits)
        total["bits"] += count // 2 * (width + 2) if two_of_four(parameter) else count * width
        total["bits"] += 32 * len(parameter) if width < 32 else 0
    return total


def two_of_four(weight: torch.Tensor) -> bool:
    """Whether at least two of every four weights along the input channels are 0."""
    return weight.shape[1] % 4 == 0 and int((weight.unflatten(1, (-1, 4)) != 0).sum(2).max()) <= 2
