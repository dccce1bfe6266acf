"""Names of layers in published repositories, translated to the names of this package's VGG and ResNet.

VGG      layer1 … layer5 with convolution, batch norm, activation and dropout, and `classifier`
ResNet   conv1, conv2_x … conv5_x with `residual_function`, `shortcut` and the activation after the addition, and `fc`

Repositories: putshua/SNN_conversion_QCFS, putshua/ANN_SNN_QCFS, hzc1208/ANN2SNN_SRP, hzc1208/ANN2SNN_COS and those made of them.
"""

import re
from collections.abc import Mapping

from torch import Tensor

VGG = re.compile(r"layer([1-5])\.(\d+)\.(.+)")
STEM = {"0": "conv1", "1": "bn1", "2": "act1"}
RESIDUAL = {"0": "conv1", "1": "bn1", "2": "act1", "3": "conv2", "4": "bn2"}
BLOCK = re.compile(r"conv([2-5])_x\.(\d+)\.(residual_function\.([0-4])|shortcut|relu|act)\.(.+)")
LAYERS = 4  # of a stage of VGG for each convolution: convolution, batch norm, activation, dropout


def translated(weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """`weights` under the names of this package; None unless they have the names of one of these repositories."""
    if any(name.startswith("conv2_x.") for name in weights):
        return {_of_resnet(name): tensor for name, tensor in weights.items()}
    if any(VGG.fullmatch(name) for name in weights) and "classifier.1.weight" in weights:
        return _of_vgg(weights)
    return None


def _of_vgg(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stages are joined to `features`, without dropout; one pooling layer follows each stage."""
    places = [VGG.fullmatch(name) for name in weights]
    counts = [
        1 + max((int(p[2]) // LAYERS for p in places if p and int(p[1]) == stage), default=-1) for stage in range(1, 6)
    ]
    starts = [sum(3 * count + 1 for count in counts[:stage]) for stage in range(5)]

    def name_of(name: str) -> str:
        place = VGG.fullmatch(name)
        if place is None:
            return name
        index = int(place[2])
        return f"features.{starts[int(place[1]) - 1] + 3 * (index // LAYERS) + index % LAYERS}.{place[3]}"

    return {name_of(name): tensor for name, tensor in weights.items()}


def _of_resnet(name: str) -> str:
    if (stem := re.fullmatch(r"conv1\.([0-2])\.(.+)", name)) is not None:
        return f"{STEM[stem[1]]}.{stem[2]}"
    block = BLOCK.fullmatch(name)
    if block is None:
        return name
    layer = RESIDUAL[block[4]] if block[4] else {"shortcut": "shortcut"}.get(block[3], "act2")
    return f"stages.{int(block[1]) - 2}.{block[2]}.{layer}.{block[5]}"
